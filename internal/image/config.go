package image

import (
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/containerd/platforms"
	ocispec "github.com/opencontainers/image-spec/specs-go/v1"
)

// defaultPath is what BuildKit sets where a base has no PATH.
const defaultPath = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

// historyComment marks the history entries of Dockerfile instructions, as
// BuildKit's frontend does.
const historyComment = "buildkit.dockerfile.v0"

// config is an image config that is being changed. Fields that nobody here
// knows are kept as they are.
type config struct {
	top     map[string]json.RawMessage
	run     map[string]json.RawMessage // the "config" object
	rootFS  ocispec.RootFS
	history []ocispec.History
}

func newConfig() *config {
	return &config{top: map[string]json.RawMessage{}, run: map[string]json.RawMessage{}}
}

func parseConfig(raw []byte) (*config, error) {
	c := newConfig()
	var known struct {
		RootFS  ocispec.RootFS             `json:"rootfs"`
		History []ocispec.History          `json:"history"`
		Config  map[string]json.RawMessage `json:"config"`
		Image   ocispec.Image              `json:"-"`
	}
	if err := json.Unmarshal(raw, &c.top); err != nil {
		return nil, fmt.Errorf("parsing the image's config: %w", err)
	}
	if err := json.Unmarshal(raw, &known); err != nil {
		return nil, fmt.Errorf("parsing the image's config: %w", err)
	}
	if c.top == nil {
		return nil, fmt.Errorf("parsing the image's config: it is null")
	}
	c.rootFS, c.history = known.RootFS, known.History
	if known.Config != nil {
		c.run = known.Config
	}
	// The typed form must be readable too, or a field that is changed later
	// would silently lose what it held.
	var typed ocispec.Image
	if err := json.Unmarshal(raw, &typed); err != nil {
		return nil, fmt.Errorf("parsing the image's config: %w", err)
	}
	return c, nil
}

// encode gives the config as compact JSON with sorted keys.
func (c *config) encode() ([]byte, error) {
	c.set("config", c.run)
	c.set("rootfs", c.rootFS)
	c.set("history", c.history)
	raw, err := json.Marshal(c.top)
	if err != nil {
		return nil, fmt.Errorf("writing the image's config: %w", err)
	}
	return raw, nil
}

func (c *config) get(key string, into any) { unmarshal(c.top[key], into) }

func (c *config) set(key string, value any) { c.top[key] = marshal(value) }

func (c *config) getRun(key string, into any) { unmarshal(c.run[key], into) }

// setRun sets a field of the "config" object; nil takes it away.
func (c *config) setRun(key string, value any) {
	if value == nil {
		delete(c.run, key)
		return
	}
	c.run[key] = marshal(value)
}

// unmarshal reads a field whose type was checked when the config was parsed. A
// null is as good as none, and leaves what is there: Docker's own tools write
// "Labels": null.
func unmarshal(raw json.RawMessage, into any) {
	if len(raw) > 0 && string(raw) != "null" {
		_ = json.Unmarshal(raw, into)
	}
}

func marshal(value any) json.RawMessage {
	raw, err := json.Marshal(value)
	if err != nil {
		panic("internal error: a config field can't be written: " + err.Error())
	}
	return raw
}

func (c *config) env() (env []string) {
	c.getRun("Env", &env)
	return env
}

func (c *config) text(key string) (s string) {
	c.getRun(key, &s)
	return s
}

// inherit does what FROM does to a base's config before the first instruction
// of the stage: ONBUILD triggers are used up, PATH is always set, the platform
// is written in its normal form.
func (c *config) inherit(dropOnBuild bool, want *ocispec.Platform) {
	if dropOnBuild {
		c.setRun("OnBuild", nil)
	}
	env := c.env()
	if !slices.ContainsFunc(env, func(kv string) bool { return len(kv) >= 5 && kv[:5] == "PATH=" }) {
		c.setRun("Env", append(env, "PATH="+defaultPath))
	}
	if wd := c.text("WorkingDir"); wd != "" {
		c.setRun("WorkingDir", workdir(wd, wd)) // a relative one is joined to itself
	}
	c.setPlatform(want)
}

// setPlatform writes the platform as BuildKit's frontend does for a given
// target platform.
func (c *config) setPlatform(want *ocispec.Platform) {
	var p ocispec.Platform
	c.get("architecture", &p.Architecture)
	c.get("os", &p.OS)
	c.get("variant", &p.Variant)
	if want != nil {
		same := want.OS == p.OS && want.Architecture == p.Architecture
		p.OS, p.Architecture = want.OS, want.Architecture
		if want.Variant != "" || !same {
			p.Variant = want.Variant
		}
	}
	p = platforms.Normalize(p)
	c.set("architecture", p.Architecture)
	c.set("os", p.OS)
	delete(c.top, "variant")
	if p.Variant != "" {
		c.set("variant", p.Variant)
	}
}

// balance makes the history name as many layers as there are: entries are
// added for layers that nobody described, and marked empty where there are too
// many. BuildKit's exporter does the same.
func (c *config) balance(created time.Time) {
	layers := 0
	for i := range c.history {
		if c.history[i].EmptyLayer {
			continue
		}
		if layers++; layers > len(c.rootFS.DiffIDs) {
			c.history[i].EmptyLayer = true
			layers--
		}
	}
	for ; layers < len(c.rootFS.DiffIDs); layers++ {
		c.history = append(c.history, ocispec.History{Created: &created, Comment: "buildkit.exporter.image.v0"})
	}
}

// record adds a history entry.
func (c *config) record(createdBy string, layer bool, created time.Time) {
	c.history = append(c.history, ocispec.History{
		Created: &created, CreatedBy: createdBy, Comment: historyComment, EmptyLayer: !layer,
	})
}

// setCreated sets the image's time to that of its last history entry, as
// BuildKit's exporter does.
func (c *config) setCreated(when time.Time) {
	for i := len(c.history) - 1; i >= 0; i-- {
		if t := c.history[i].Created; t != nil {
			when = *t
			break
		}
	}
	c.set("created", when)
}

// clone gives a copy that can be changed.
func (c *config) clone() *config {
	d := &config{top: maps.Clone(c.top), run: maps.Clone(c.run), rootFS: c.rootFS, history: slices.Clone(c.history)}
	d.rootFS.DiffIDs = slices.Clone(c.rootFS.DiffIDs)
	return d
}
