package dockerfile

import (
	"fmt"
	"slices"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"

	"github.com/strata-build/strata/internal/printable"
)

// record sets what BuildKit writes into the image's history for an instruction:
// the formats of dockerfile2llb, where only a step with a state of its own ends
// in "# buildkit". What BuildKit has and this has not are the credentials of an
// ADD's URL. It runs after the instruction took effect on s.
func (a *analysis) record(o *op, s *scope) {
	switch c := o.cmd.(type) {
	case *instructions.EnvCommand:
		o.history = "ENV" + pairsOf(c.Env)
	case *instructions.LabelCommand:
		o.history = "LABEL" + pairsOf(c.Labels)
	case *instructions.ArgCommand:
		words := make([]string, len(c.Args))
		for i, kv := range c.Args {
			words[i] = kv.Key
			if kv.Value != nil {
				words[i] += "=" + *kv.Value
			}
		}
		o.history = "ARG " + strings.Join(words, " ")
	case *instructions.WorkdirCommand:
		o.history = "WORKDIR " + s.dir
	case *instructions.UserCommand:
		o.history = "USER " + c.User
	case *instructions.MaintainerCommand:
		o.history = "MAINTAINER " + c.Maintainer
	case *instructions.CmdCommand:
		o.history = fmt.Sprintf("CMD %q", s.argv(c.ShellDependantCmdLine))
	case *instructions.EntrypointCommand:
		o.history = fmt.Sprintf("ENTRYPOINT %q", s.argv(c.ShellDependantCmdLine))
	case *instructions.HealthCheckCommand:
		o.history = fmt.Sprintf("HEALTHCHECK %+v", *c.Health)
	case *instructions.ExposeCommand:
		o.history = fmt.Sprintf("EXPOSE %v", c.Ports)
	case *instructions.VolumeCommand:
		o.history = fmt.Sprintf("VOLUME %v", c.Volumes)
	case *instructions.StopSignalCommand:
		o.history = "STOPSIGNAL " + c.Signal
	case *instructions.ShellCommand:
		o.history = fmt.Sprintf("SHELL %v", c.Shell)
	case *instructions.CopyCommand:
		o.history = copyHistory("COPY", c.Parents, c.Chown, c.Chmod, c.SourcesAndDest)
	case *instructions.AddCommand:
		o.history = copyHistory("ADD", false, c.Chown, c.Chmod, c.SourcesAndDest)
	case *instructions.RunCommand:
		o.history = "RUN " + s.runHistory(s.argv(c.ShellDependantCmdLine)) + " # buildkit"
	}
}

func pairsOf(kvs instructions.KeyValuePairs) string {
	var b strings.Builder
	for _, kv := range kvs {
		b.WriteString(" " + kv.String())
	}
	return b.String()
}

func copyHistory(word string, parents bool, chown, chmod string, sd instructions.SourcesAndDest) string {
	words := []string{word}
	if parents {
		words = append(words, "--parents")
	}
	if chown != "" {
		words = append(words, "--chown="+chown)
	}
	if chmod != "" {
		words = append(words, "--chmod="+chmod)
	}
	for _, src := range sd.SourcePaths {
		words = append(words, printable.URL(src))
	}
	for _, doc := range sd.SourceContents {
		words = append(words, "<<"+doc.Path)
	}
	return strings.Join(append(words, sd.DestPath, "# buildkit"), " ")
}

// argv gives a command line as it stands in a config: behind the shell in force
// unless it was written as JSON.
func (s *scope) argv(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	sh := s.shell
	if len(sh) == 0 {
		sh = []string{"/bin/sh", "-c"}
	}
	return append(slices.Clone(sh), strings.Join(c.CmdLine, " "))
}

// runHistory gives a command line behind the args that it sees.
func (s *scope) runHistory(argv []string) string {
	var env []string
	at := map[string]int{}
	for _, d := range s.args {
		v, ok := s.Get(d.name)
		if !ok {
			v = d.value
		}
		if i, ok := at[d.name]; ok {
			env[i] = d.name + "=" + v
			continue
		}
		at[d.name] = len(env)
		env = append(env, d.name+"="+v)
	}
	if len(env) > 0 {
		env = append([]string{fmt.Sprintf("|%d", len(env))}, env...)
	}
	return strings.Join(append(env, argv...), " ")
}
