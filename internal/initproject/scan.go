package initproject

import (
	"fmt"
	"io/fs"
	"path"
	"regexp"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/dockerfile"
)

// source is a Dockerfile of the repository.
type source struct {
	path   string
	suffix string // "base" of Dockerfile.base and base.Dockerfile; "" for Dockerfile
	file   *dockerfile.File
	stages []string // names of the stages that have one
	arg    string   // the arg that is the base of the last stage: "BASE_IMAGE"; "" when it is no arg
	preset string   // the arg's default
	base   string   // the external image under the last stage, when it is no arg
}

// repository is what a scan found.
type repository struct {
	fs      fs.FS
	name    string // of the folder
	sources []*source
	compose string            // path of a compose file, or ""
	bake    string            // path of a docker-bake file, or ""
	strata  bool              // has a strata.yaml
	scripts map[string]string // build scripts by path: Makefile, workflows, *.sh
	broken  []string          // Dockerfiles that do not parse
}

// skipped are folders that hold other people's files.
var skipped = []string{"node_modules", "vendor", "testdata", "third_party", "dist", "target"}

// maxDepth bounds how deep Dockerfiles are looked for: services/x/docker/cpu
// is 4.
const maxDepth = 5

// scan walks the repository once.
func scan(fsys fs.FS, o Options) (*repository, error) {
	r := &repository{fs: fsys, name: o.Name, scripts: map[string]string{}}
	err := fs.WalkDir(fsys, ".", func(p string, d fs.DirEntry, err error) error {
		switch {
		case err != nil && p == ".":
			return err
		case err != nil:
			return fs.SkipDir // a folder that may not be read holds nothing for us
		case d.IsDir() && p != "." && r.skips(p, d.Name()):
			return fs.SkipDir
		case d.IsDir():
			return nil
		}
		return r.file(p)
	})
	if err != nil {
		return nil, fmt.Errorf("reading the repository: %w", err)
	}
	return r, nil
}

func (r *repository) skips(p, name string) bool {
	hidden := strings.HasPrefix(name, ".") && !slices.Contains([]string{".github", ".docker", ".devcontainer"}, name)
	return hidden || slices.Contains(skipped, name) || strings.Count(p, "/") >= maxDepth
}

// file takes note of one file.
func (r *repository) file(p string) error {
	name := path.Base(p)
	switch {
	case p == "strata.yaml" || p == "strata.yml":
		r.strata = true
	case p == "docker-bake.hcl" || p == "docker-bake.json":
		if r.bake == "" {
			r.bake = p
		}
	case slices.Contains([]string{"compose.yaml", "compose.yml", "docker-compose.yaml", "docker-compose.yml"}, p):
		if r.compose == "" {
			r.compose = p
		}
	case isScript(p):
		data, err := fs.ReadFile(r.fs, p)
		if err != nil {
			return nil // it only helps to guess
		}
		r.scripts[p] = string(data)
	default:
		if suffix, ok := dockerfileName(name); ok {
			return r.dockerfile(p, suffix)
		}
	}
	return nil
}

func isScript(p string) bool {
	name := path.Base(p)
	return name == "Makefile" || path.Ext(name) == ".mk" || path.Ext(name) == ".sh" ||
		strings.HasPrefix(p, ".github/workflows/") || p == ".gitlab-ci.yml"
}

// dockerfileName reports whether a file's name is that of a Dockerfile, and
// what it says besides.
func dockerfileName(name string) (suffix string, ok bool) {
	lower := strings.ToLower(name)
	for _, word := range []string{"dockerfile", "containerfile"} {
		switch {
		case lower == word:
			return "", true
		case strings.HasPrefix(lower, word+".") || strings.HasPrefix(lower, word+"-"):
			suffix = lower[len(word)+1:]
		case strings.HasSuffix(lower, "."+word):
			suffix = strings.TrimSuffix(lower, "."+word)
		default:
			continue
		}
		return suffix, !slices.Contains(otherSuffixes, suffix[strings.LastIndexByte(suffix, '.')+1:])
	}
	return "", false
}

// otherSuffixes are those of files that are about Dockerfiles and are none.
var otherSuffixes = []string{"dockerignore", "md", "txt", "bak", "orig", "j2", "tmpl", "template", "in", "sh", "py", "go",
	"js", "ts", "rb", "rs", "java", "json", "yaml", "yml", "toml", "test"}

// dockerfile reads one Dockerfile.
func (r *repository) dockerfile(p, suffix string) error {
	data, err := fs.ReadFile(r.fs, p)
	if err != nil {
		if pe, ok := err.(*fs.PathError); ok {
			err = pe.Err
		}
		r.broken = append(r.broken, fmt.Sprintf("%s: %v", p, err))
		return nil
	}
	file, err := dockerfile.Parse(p, data)
	if err != nil {
		r.broken = append(r.broken, strings.Split(err.Error(), "\n")[0])
		return nil
	}
	s := &source{path: p, suffix: suffix, file: file}
	for _, name := range file.Stages() {
		if name != "" {
			s.stages = append(s.stages, name)
		}
	}
	bases := file.Bases(nil)
	last := bases[len(bases)-1]
	for last.Base >= 0 {
		last = bases[last.Base]
	}
	s.arg, s.base = last.Arg, last.Image
	for _, a := range file.GlobalArgs() {
		if a.Name == s.arg {
			s.preset = a.Default
		}
	}
	r.sources = append(r.sources, s)
	return nil
}

// buildArgs gives, for every Dockerfile that a build script names with -f, the
// values that it gives to an arg.
func (r *repository) buildArgs(file, arg string) []string {
	var out []string
	for _, p := range slices.Sorted(mapKeys(r.scripts)) {
		text := strings.ReplaceAll(r.scripts[p], "\\\n", " ")
		for _, line := range strings.Split(text, "\n") {
			if m := fileFlag.FindStringSubmatch(line); m == nil || path.Clean(m[1]) != file {
				continue
			}
			for _, m := range argFlag.FindAllStringSubmatch(line, -1) {
				if m[1] == arg {
					out = append(out, m[2])
				}
			}
		}
	}
	return out
}

var (
	fileFlag     = regexp.MustCompile(`(?:-f|--file)[ =]([^ "']+)`)
	argFlag      = regexp.MustCompile(`--build-arg[ =]["']?([A-Za-z_][A-Za-z0-9_]*)=([^ "']+)`)
	platformText = regexp.MustCompile(`linux/(?:amd64|arm64|arm/v7|386|ppc64le|s390x|riscv64)`)
	assignment   = regexp.MustCompile(`(?m)^(?:export )?([A-Z_]+)\s*[:?]?=\s*"?([A-Za-z0-9./:_-]+)"?\s*$`)
	gitRemote    = regexp.MustCompile(`(?m)^\s*url\s*=\s*(?:https?://(?:[^@/]+@)?|ssh://git@|git@)(github\.com|gitlab\.com)[:/](\S+?)(?:\.git)?\s*$`)
)

// platforms gives the platforms that build scripts name, amd64 first.
func (r *repository) platforms() []string {
	var out []string
	for _, p := range slices.Sorted(mapKeys(r.scripts)) {
		for _, platform := range platformText.FindAllString(r.scripts[p], -1) {
			if !slices.Contains(out, platform) {
				out = append(out, platform)
			}
		}
	}
	slices.Sort(out)
	return out
}

// image guesses the repository of the images, and says from what.
func (r *repository) image() (name, from string) {
	for _, p := range slices.Sorted(mapKeys(r.scripts)) {
		vars := map[string]string{}
		for _, m := range assignment.FindAllStringSubmatch(r.scripts[p], -1) {
			vars[m[1]] = m[2]
		}
		image := vars["IMAGE_NAME"]
		if image == "" {
			image = vars["IMAGE"]
		}
		registry := vars["REGISTRY"]
		if full := strings.TrimPrefix(registry+"/"+image, "/"); image != "" && imageName.MatchString(full) {
			return full, p
		}
	}
	if data, err := fs.ReadFile(r.fs, ".git/config"); err == nil {
		if m := gitRemote.FindSubmatch(data); m != nil {
			host := map[string]string{"github.com": "ghcr.io/", "gitlab.com": "registry.gitlab.com/"}[string(m[1])]
			if full := host + strings.ToLower(string(m[2])); imageName.MatchString(full) {
				return full, "the git remote"
			}
		}
	}
	return plainName(r.name), "the folder's name"
}

var imageName = regexp.MustCompile(`^[a-zA-Z0-9.:-]*/?[a-z0-9]+([._/-]+[a-z0-9]+)*$`)

// plainName makes a lower-case name of letters, digits and dashes.
func plainName(s string) string {
	words := strings.FieldsFunc(strings.ToLower(s), func(c rune) bool {
		return (c < 'a' || c > 'z') && (c < '0' || c > '9')
	})
	if len(words) == 0 {
		return "app"
	}
	return strings.Join(words, "-")
}
