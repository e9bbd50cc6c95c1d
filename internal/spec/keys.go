package spec

import "regexp"

// The formats of texts in strata.yaml.
var (
	nameFormat = &format{regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`),
		"lower-case letters, digits, dots, dashes and underscores, at most 63, the first one a letter or digit"}
	// imageFormat follows the reference grammar of the distribution project: an
	// optional host, then path components in lower case; no tag, no digest.
	imageFormat = &format{regexp.MustCompile(`^((localhost|[A-Za-z0-9-]+(\.[A-Za-z0-9-]+)+)(:[0-9]+)?/|[A-Za-z0-9-]+:[0-9]+/)?[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*$`),
		"a repository in lower case without tag or digest, such as ghcr.io/user/app"}
	durationFormat = &format{regexp.MustCompile(`^([1-9][0-9]*[smhdw])+$`),
		"numbers with s, m, h, d or w, such as 36h or 1h30m"}
	everyFormat = &format{regexp.MustCompile(`^(day|week|month|([1-9][0-9]*[mhdw])+)$`),
		"day, week, month or a duration such as 2d or 36h"}
	atFormat = &format{regexp.MustCompile(`^((Mon|Tue|Wed|Thu|Fri|Sat|Sun|[1-9]|1[0-9]|2[0-8]) )?([01][0-9]|2[0-3]):[0-5][0-9]$`),
		`an hour in UTC ("06:00"), after a weekday for every: week ("Mon 06:00") or a day from 1 to 28 for every: month ("1 06:00")`}
	engineFormat = &format{regexp.MustCompile(`^(embedded|(unix|tcp|docker-container|kube-pod)://.+)$`),
		"embedded, unix://PATH, tcp://HOST:PORT, docker-container://NAME or kube-pod://NAME"}
	secretFormat = &format{regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*$`), "letters, digits, dots, dashes and underscores"}
	sshFormat    = &format{regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]*(=.+)?$`), "default, or ID=PATH of a socket or key"}
	argFormat    = &format{regexp.MustCompile(`^[A-Za-z_][A-Za-z0-9_.-]*$`), "letters, digits and underscores, no digit first"}
	// targetFormat is what docker buildx takes, and dots; no flag begins so.
	targetFormat  = &format{regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]*$`), "letters, digits, dots, dashes and underscores, no dot or dash first"}
	bakeTagFormat = &format{regexp.MustCompile(`^[A-Za-z0-9_][A-Za-z0-9._-]{0,127}$`), "letters, digits, dots, dashes and underscores"}
	// labelFormat leaves out what GitHub and GitLab would expand, since a label goes
	// into a pipeline.
	labelFormat = &format{regexp.MustCompile(`^[A-Za-z0-9_.][ -#%-_a-~]*$`),
		"letters, digits, blanks and signs but for $ and backticks, which a pipeline may expand; a letter or digit first"}
	tagFormat = &format{regexp.MustCompile(`^[A-Za-z0-9_{}][A-Za-z0-9._{}-]{0,126}$`), `a tag with variables in braces, such as "{version}-{variant}"`}
)

// The shapes that several keys share.
var (
	nameText     = &shape{kind: text, noun: "name", format: nameFormat}
	imageText    = &shape{kind: text, noun: "image name", format: imageFormat}
	platformText = &shape{kind: text, noun: "platform", enum: Platforms}
	durationText = &shape{kind: text, noun: "duration", format: durationFormat}
	pathText     = &shape{kind: text, noun: "path"}
	selectorText = &shape{kind: text, noun: "selector"}
	argText      = &shape{kind: text, noun: "name", format: argFormat}
	tagText      = &shape{kind: text, noun: "tag", format: tagFormat}
	networkText  = &shape{kind: text, noun: "network", enum: []string{"default", "none", "host"}}

	platformList = &shape{kind: list, noun: "platforms", of: platformText, min: 1, unique: true}
	argMap       = &shape{kind: mapping, noun: "names to values", key: argText, of: &shape{kind: scalar, noun: "text, number or boolean"}}
	labelMap     = &shape{kind: mapping, noun: "labels to values", of: &shape{kind: scalar, noun: "text, number or boolean"}}
	tagList      = oneOrMore(tagText, "tags")
	contextMap   = &shape{kind: mapping, noun: "names to contexts", of: &shape{kind: text, noun: "context"}}
)

// oneOrMore takes one text, or a list of them that may be empty.
func oneOrMore(s *shape, noun string) *shape {
	return &shape{kind: union, any: []*shape{s, {kind: list, noun: noun, of: s}}}
}

// bySelector takes one text for every unit, or one for each selector.
func bySelector(s *shape) *shape {
	return &shape{kind: union, any: []*shape{s, {kind: mapping, noun: "selectors to " + s.noun + "s", key: selectorText, of: s, min: 1}}}
}

const selectorDoc = " One for all units, or a mapping from selectors (`cpu/arm64`, `cuda`, `arm64`, `\"*\"`) of which the most specific wins."

var tagsShape = &shape{kind: object, fields: []field{
	{name: "layer", shape: tagList, doc: "Tags of an image that other layers stand on, for each variant and platform.",
		def: "`{variant}-{layer}-{arch}-{version}`, `{variant}-{layer}-{arch}-latest`; without `{arch}` where the variant has one platform"},
	{name: "image", shape: tagList, doc: "Tags of an image that no layer stands on, for each variant and platform.",
		def: "`latest-{variant}-{arch}`, `{version}-{variant}-{arch}`; where the variant has one platform `{variant}-{arch}`, `{version}-{variant}-{arch}`, `{variant}-latest`"},
	{name: "index", shape: tagList, doc: "Tags of the multi-platform index of an image that no layer stands on, for each variant. Where the variant has one platform they go to its image.",
		def: "`latest-{variant}`, `{version}-{variant}`; none where the variant has one platform"},
}}

var layerTagsShape = &shape{kind: union, any: []*shape{
	{kind: list, noun: "tags", of: tagText},
	{kind: object, fields: []field{
		{name: "image", shape: tagList, doc: "Tags of the layer's image, for each variant and platform."},
		{name: "index", shape: tagList, doc: "Tags of the layer's multi-platform index, for each variant."},
	}},
}}

var keepShape = &shape{kind: object, fields: []field{
	{name: "age", shape: durationText, doc: "What was made or used within this time is kept."},
	{name: "count", shape: &shape{kind: integer}, doc: "So many of the newest images of each unit are kept, whatever their age."},
}}

var refreshShape = &shape{kind: union, any: []*shape{
	{kind: text, noun: "refresh period", format: everyFormat},
	{kind: object, fields: []field{
		{name: "every", required: true, shape: &shape{kind: text, noun: "refresh period", format: everyFormat},
			doc: "How long an image of the layer may stand: `day`, `week`, `month`, or a duration such as `2d` or `36h`, counted from 1970-01-01."},
		{name: "at", shape: &shape{kind: text, noun: "time", format: atFormat}, def: "`00:00`, on Monday for `week`, on the 1st for `month`",
			doc: "When a new slot begins, in UTC: `06:00`, `Mon 06:00` for `week`, `1 06:00` for `month`."},
	}},
}}

var commandShape = &shape{kind: union, any: []*shape{
	{kind: text, noun: "shell command"},
	{kind: list, noun: "arguments", of: &shape{kind: text, noun: "argument"}, min: 1},
}}

var testShape = &shape{kind: union, any: []*shape{
	{kind: text, noun: "shell command"},
	{kind: list, noun: "arguments", of: &shape{kind: text, noun: "argument"}, min: 1},
	{kind: object, fields: []field{
		{name: "run", shape: commandShape, oneOf: "what", doc: "A command that is run in the built image: a list of arguments, or a text for `/bin/sh -c`."},
		{name: "stage", shape: &shape{kind: text, noun: "stage"}, oneOf: "what", doc: "A stage of the layer's Dockerfile that must build."},
		{name: "timeout", shape: durationText, def: "`10m`", doc: "The test fails when it takes longer."},
		{name: "network", shape: networkText, def: "`default`", doc: "The network that the test has."},
	}},
}}

// settingFields are the keys that a layer, and `for:` in a layer, share.
var settingFields = []field{
	{name: "args", shape: argMap, doc: "Build arguments. They add to those of the project and of the variant, and win over them."},
	{name: "labels", shape: labelMap, doc: "Labels of the image's config. They add to those of the project and of the variant, and win over them."},
	{name: "contexts", shape: contextMap, doc: "Named build contexts: a folder, `docker-image://REFERENCE`, or `layer:NAME` for the image of another layer."},
	{name: "network", shape: networkText, def: "`default`", doc: "The network of RUN instructions."},
	{name: "test", shape: testShape, doc: "What must pass before a tag moves: a command to run in the built image, or a stage that must build."},
}

var forShape = &shape{kind: mapping, noun: "selectors to settings", key: selectorText, min: 1, of: &shape{kind: object, fields: append([]field{
	{name: "dockerfile", shape: pathText, doc: "The Dockerfile."},
	{name: "context", shape: pathText, doc: "The build context."},
	{name: "target", shape: &shape{kind: text, noun: "stage"}, doc: "The stage to build."},
}, settingFields...)}}

var layerShape = &shape{kind: object, empty: true, fields: append([]field{
	{name: "parent", shape: nameText, doc: "The layer that this one stands on. Its image is handed over as the build argument BASE_IMAGE where the Dockerfile declares it, otherwise as a named context with the parent's name."},
	{name: "dockerfile", shape: bySelector(pathText), def: "the project's `dockerfile`", doc: "The Dockerfile, relative to the project's folder." + selectorDoc},
	{name: "stage", shape: &shape{kind: text, noun: "stage"}, doc: "The layer is this stage of a multi-stage Dockerfile. Its parents come from the Dockerfile."},
	{name: "target", shape: bySelector(&shape{kind: text, noun: "stage"}), def: "the last stage", doc: "The stage of the Dockerfile to build." + selectorDoc},
	{name: "context", shape: bySelector(pathText), def: "the project's `context`", doc: "The folder that COPY and ADD read, relative to the project's folder." + selectorDoc},
	{name: "image", shape: imageText, def: "the project's `image`", doc: "The repository of the layer's images, for a project that publishes several images."},
	{name: "only", shape: oneOrMore(selectorText, "selectors"), def: "every variant and platform", doc: "The layer exists for the units that one of these selectors matches."},
	{name: "secrets", shape: secretList, doc: "Secrets for `RUN --mount=type=secret`. Their values never enter a key, an image or a record."},
	{name: "ssh", shape: &shape{kind: list, noun: "SSH agents", of: &shape{kind: text, noun: "SSH agent", format: sshFormat}}, doc: "SSH agents for `RUN --mount=type=ssh`: `default`, or `ID=PATH` of a key or socket, relative to the project's folder."},
	{name: "refresh", shape: refreshShape, def: "never by time alone", doc: "The layer is built anew when a time slot ends, even if nothing changed."},
	{name: "stale", shape: &shape{kind: text, noun: "policy", enum: []string{"allow", "deny"}}, def: "`allow`", doc: "Whether an ordinary build takes the image of the last slot when a new slot has begun, until a scheduled build has made the new one."},
	{name: "max-age", shape: durationText, def: "no limit", doc: "With `stale: allow`: a slot's image that ended longer ago than this is not taken."},
	{name: "on-parent-change", shape: &shape{kind: text, noun: "policy", enum: []string{"rebuild", "rebase", "rebase-or-rebuild"}}, def: "`rebuild`", doc: "When only the parent changed: build again, put the layer's own blobs on the new parent (an error where that is not provably the same), or the one where it is and the other where it is not."},
	{name: "keep", shape: keepShape, def: "the project's `keep`", doc: "What `strata prune` keeps of this layer."},
	{name: "tags", shape: layerTagsShape, def: "the project's `tags`", doc: "Tags of this layer. A plain list names the image as users pull it: the index where the variant has several platforms, the image itself where it has one."},
	{name: "for", shape: forShape, doc: "Settings for the units that a selector matches. The more specific one wins; args, labels and contexts add up."},
}, settingFields...)}

var secretList = &shape{kind: list, noun: "secrets", of: &shape{kind: object, fields: []field{
	{name: "id", required: true, shape: &shape{kind: text, noun: "secret id", format: secretFormat}, doc: "The id that the Dockerfile names."},
	{name: "env", oneOf: "source", shape: argText, doc: "The environment variable that holds the value."},
	{name: "file", oneOf: "source", shape: pathText, doc: "The file that holds the value."},
}}}

var variantShape = &shape{kind: object, empty: true, fields: []field{
	{name: "platforms", shape: platformList, def: "the project's `platforms`", doc: "The platforms of this variant."},
	{name: "args", shape: argMap, doc: "Build arguments of all layers of this variant."},
	{name: "labels", shape: labelMap, doc: "Labels of all images of this variant."},
	{name: "tags", shape: tagsShape, def: "the project's `tags`", doc: "Tags of this variant."},
}}

var cacheShape = &shape{kind: union, any: []*shape{
	{kind: text, noun: "cache", enum: cacheTypes},
	{kind: object, fields: []field{
		{name: "type", required: true, shape: &shape{kind: text, noun: "cache", enum: cacheTypes}, doc: "Where the cache is kept: `none`, `registry`, `gha`, `s3` or `local`."},
		{name: "mode", shape: &shape{kind: text, noun: "cache mode", enum: []string{"min", "max"}}, def: "`max`", doc: "Whether only the result's steps are kept (`min`) or all."},
		{name: "attrs", shape: &shape{kind: mapping, noun: "attributes to values", of: &shape{kind: scalar, noun: "text, number or boolean"}}, doc: "Attributes for BuildKit, such as `ref`, `scope`, `bucket`, `region`."},
	}},
}}

var cacheTypes = []string{"none", "registry", "gha", "s3", "local"}

var engineText = &shape{kind: text, noun: "engine", format: engineFormat}

var engineShape = &shape{kind: union, any: []*shape{
	engineText,
	{kind: list, noun: "engines", min: 1, of: &shape{kind: union, any: []*shape{
		engineText,
		{kind: object, fields: []field{
			{name: "endpoint", required: true, shape: engineText, doc: "Its address."},
			{name: "platforms", shape: platformList, def: "what the engine says it builds natively", doc: "The platforms that it is given."},
		}},
	}}},
}}

// projectShape is the whole of strata.yaml.
var projectShape = &shape{kind: object, fields: []field{
	{name: "image", required: true, shape: imageText, doc: "The repository that images are published to, such as `ghcr.io/user/app`. Without a registry's host (`app`) they are kept in the embedded registry."},
	{name: "version", shape: &shape{kind: scalar, noun: "text, number or boolean"}, def: "`git describe --tags --always --dirty`", doc: "The value of `{version}`."},
	{name: "platforms", shape: platformList, def: "the platform of the machine", doc: "The platforms of every variant that names none of its own."},
	{name: "variants", shape: &shape{kind: mapping, noun: "names to variants", key: nameText, of: variantShape, min: 1}, def: "one variant without a name", doc: "Flavours of the images, such as `cpu` and `cuda`."},
	{name: "layers", required: true, shape: &shape{kind: union, any: []*shape{
		{kind: text, noun: "word", enum: []string{"auto"}},
		{kind: mapping, noun: "names to layers", key: nameText, of: layerShape, min: 1},
	}}, doc: "The layers, or `auto`: every named stage of `dockerfile` is a layer."},
	{name: "dockerfile", shape: pathText, def: "`Dockerfile`", doc: "The Dockerfile of layers that name none of their own."},
	{name: "context", shape: pathText, def: "`.`", doc: "The build context of layers that name none of their own, relative to the project's folder."},
	{name: "args", shape: argMap, doc: "Build arguments of all layers. One that a Dockerfile does not use changes nothing, [SOURCE_DATE_EPOCH](#source_date_epoch) aside."},
	{name: "labels", shape: labelMap, doc: "Labels of all images."},
	{name: "tags", shape: tagsShape, doc: "Templates of the tags. Variables: `{variant}` `{layer}` `{platform}` `{os}` `{arch}` `{version}` `{branch}` `{sha}`; a variable without a value takes one dash beside it along, and a tag whose version, branch or sha is not known is left out."},
	{name: "protect", shape: &shape{kind: list, noun: "patterns", of: &shape{kind: text, noun: "pattern"}}, doc: "Tags that are never moved without `--force`, as patterns with `*`."},
	{name: "channels", shape: &shape{kind: list, noun: "names", of: nameText, min: 1, unique: true}, doc: "Names that a release is promoted through, in order, such as `[dev, staging, stable]`. A channel's tags are those with `{version}`, with its name in place of the version."},
	{name: "keep", shape: keepShape, def: "30 days", doc: "What `strata prune` keeps of images that no tag and no build of the project as it is leads to: those that were used within `age`, and the newest of each unit, `count` of them."},
	{name: "cache", shape: cacheShape, def: "`none`", doc: "BuildKit's instruction cache, for what happens inside of a unit. Units are reused without it."},
	{name: "engine", shape: engineShape, def: "`$BUILDKIT_HOST`, otherwise `embedded`", doc: "The BuildKit that builds; of several, each unit goes to the first that has its platform."},
	{name: "runners", shape: &shape{kind: mapping, noun: "platforms to labels", key: platformText, of: oneOrMore(&shape{kind: text, noun: "label", format: labelFormat}, "labels"), min: 1}, def: "`ubuntu-24.04`, `ubuntu-24.04-arm`", doc: "The labels of the CI runners that build each platform, in the pipelines that `strata ci` writes. A label is a text: expressions and variables of the pipeline are refused."},
	{name: "compression", shape: &shape{kind: text, noun: "compression", enum: []string{"gzip", "zstd"}}, def: "`gzip`", doc: "How new blobs are compressed."},
}}
