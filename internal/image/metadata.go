package image

import (
	"path"
	"strings"

	"github.com/moby/buildkit/frontend/dockerfile/instructions"
)

// metadata carries out an instruction that changes only the config. It gives
// false for every other.
func (a *appender) metadata(in Instruction) (bool, error) {
	c := a.config
	switch i := in.Command.(type) {
	case *instructions.EnvCommand:
		env := c.env()
		for _, kv := range i.Env {
			env = setEnv(env, kv.Key, kv.Value)
		}
		c.setRun("Env", env)
	case *instructions.LabelCommand:
		labels := map[string]string{}
		c.getRun("Labels", &labels)
		for _, kv := range i.Labels {
			labels[kv.Key] = kv.Value
		}
		c.setRun("Labels", labels)
	case *instructions.CmdCommand:
		c.setRun("Cmd", orNil(a.argv(i.ShellDependantCmdLine)))
		c.setRun("ArgsEscaped", true)
		a.cmdSet = true
	case *instructions.EntrypointCommand:
		c.setRun("Entrypoint", orNil(a.argv(i.ShellDependantCmdLine)))
		if !in.CmdSet && !a.cmdSet {
			c.setRun("Cmd", nil)
		}
	case *instructions.HealthCheckCommand:
		c.setRun("Healthcheck", i.Health)
	case *instructions.ExposeCommand:
		return true, a.addKeys("ExposedPorts", i.Ports)
	case *instructions.VolumeCommand:
		return true, a.addKeys("Volumes", i.Volumes)
	case *instructions.UserCommand:
		c.setRun("User", orNil(i.User))
	case *instructions.StopSignalCommand:
		c.setRun("StopSignal", i.Signal)
	case *instructions.ShellCommand:
		c.setRun("Shell", orNil([]string(i.Shell)))
	case *instructions.OnbuildCommand:
		var triggers []string
		c.getRun("OnBuild", &triggers)
		c.setRun("OnBuild", append(triggers, i.Expression))
	case *instructions.MaintainerCommand:
		c.set("author", i.Maintainer)
	case *instructions.ArgCommand:
	default:
		return false, nil
	}
	return true, nil
}

// addKeys adds keys to a field that is a set: BuildKit merges EXPOSE and VOLUME
// with what the base has.
func (a *appender) addKeys(field string, keys []string) error {
	set := map[string]struct{}{}
	a.config.getRun(field, &set)
	for _, k := range keys {
		if k == "" {
			return inexact("%s has an empty value", field)
		}
		set[k] = struct{}{}
	}
	a.config.setRun(field, set)
	return nil
}

// setEnv replaces a variable where it stands, or adds it.
func setEnv(env []string, key, value string) []string {
	for i, kv := range env {
		if name, _, _ := strings.Cut(kv, "="); name == key {
			env[i] = key + "=" + value
			return env
		}
	}
	return append(env, key+"="+value)
}

// argv gives a command line behind the shell in force unless it was written as
// JSON.
func (a *appender) argv(c instructions.ShellDependantCmdLine) []string {
	if !c.PrependShell {
		return c.CmdLine
	}
	return append(a.shell(), strings.Join(c.CmdLine, " "))
}

func (a *appender) shell() []string {
	var shell []string
	a.config.getRun("Shell", &shell)
	if len(shell) == 0 {
		shell = []string{"/bin/sh", "-c"}
	}
	return shell
}

// workdir joins a WORKDIR to the one before. An absolute one is kept as it is
// written, a trailing slash included.
func workdir(current, dir string) string {
	if current == "" {
		current = "/"
	}
	switch {
	case dir == "":
		dir = current
	case !path.IsAbs(dir):
		dir = path.Join("/", current, dir)
	}
	return dir
}

// orNil gives nil for what the config leaves out when it is empty.
func orNil[T ~string | ~[]string](v T) any {
	if len(v) == 0 {
		return nil
	}
	return v
}
