// Package doctor checks whether a machine can do what Strata asks of it, and
// says what to do where it can't.
//
// It takes the folder of Strata's state, paths and functions to ask with, and
// gives a list of checks in a fixed order. Checks look and try (a mount, a
// process in namespaces), and leave nothing behind.
package doctor

import (
	"cmp"
	"context"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"os/user"
	"runtime"
	"sync"
	"time"
)

// Status is the result of a check.
type Status string

// The results.
const (
	OK   Status = "ok"
	Warn Status = "warn" // something is missing that not every build needs
	Fail Status = "fail" // builds will fail
)

// Check is one thing that was looked at.
type Check struct {
	Name   string `json:"name"`
	Status Status `json:"status"`
	Detail string `json:"detail"`         // what was found
	Hint   string `json:"hint,omitempty"` // what to do: exact commands, one a line
}

// Registry is a registry to ask.
type Registry struct {
	Host string
	// Probe asks the registry for as little as it answers. It gives the Date
	// of the answer, or the zero time where it had none.
	Probe func(ctx context.Context) (time.Time, error)
}

// Options say what to check. StateDir is needed, all else has a default.
type Options struct {
	StateDir     string                                // where Strata keeps its state; it need not exist yet
	Remote       bool                                  // builds run on an engine elsewhere: leave out what only the embedded engine needs
	Runc         string                                // path of runc; "" looks for it on PATH
	RuncFrom     string                                // what to call it; default its path
	Platforms    []string                              // platforms to build for: "linux/arm64"
	Registries   []Registry                            // to ask
	Repository   func(context.Context) (string, error) // reads the project's, and says where it stands
	DockerConfig string                                // path of docker's config.json; "" is none
	Machine      fs.FS                                 // root folder, for what is read of /proc, /sys and /etc; default the machine's
	OS, Arch     string                                // default runtime.GOOS, runtime.GOARCH
	UID          func() int                            // default os.Geteuid
	User         string                                // name in /etc/subuid; default that of the current user
	LookPath     func(string) (string, error)          // default exec.LookPath
	Now          func() time.Time                      // default time.Now
	Timeout      time.Duration                         // for each check; default 5 s
}

// task is a check that was not made yet.
type task struct {
	name string
	run  func(ctx context.Context, o Options) Check
}

// Run makes all checks at once and gives them in a fixed order: the machine,
// the engine's needs, emulators by platform, disk, registries, tools. A check
// that takes longer than the timeout has failed; one that hangs in a system
// call (a dead network mount) goes on in its goroutine until the call returns.
func Run(ctx context.Context, o Options) []Check {
	o = o.withDefaults()
	tasks := tasks(o)
	checks := make([]Check, len(tasks))
	var wg sync.WaitGroup
	for i, t := range tasks {
		wg.Go(func() { checks[i] = limited(ctx, t, o) })
	}
	wg.Wait()
	return checks
}

// Worst gives the worst status among checks.
func Worst(checks []Check) Status {
	worst := OK
	for _, c := range checks {
		if c.Status == Fail || c.Status == Warn && worst == OK {
			worst = c.Status
		}
	}
	return worst
}

func (o Options) withDefaults() Options {
	if o.Machine == nil {
		o.Machine = os.DirFS("/")
	}
	if o.UID == nil {
		o.UID = os.Geteuid
	}
	if o.User == "" {
		if u, err := user.Current(); err == nil {
			o.User = u.Username
		}
	}
	if o.LookPath == nil {
		o.LookPath = exec.LookPath
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	o.OS, o.Arch = cmp.Or(o.OS, runtime.GOOS), cmp.Or(o.Arch, runtime.GOARCH)
	o.Timeout = cmp.Or(o.Timeout, 5*time.Second)
	return o
}

// tasks gives the checks that o asks for, in order.
func tasks(o Options) []task {
	var out []task
	if !o.Remote {
		out = append(out, task{"kernel", kernel})
		if o.OS == "linux" {
			out = append(out, task{"user", userRights}, task{"overlayfs", overlay}, task{"namespaces", namespaces},
				task{"cgroups", cgroups}, task{"seccomp", seccomp}, task{"runc", runc})
			for _, p := range o.Platforms {
				out = append(out, task{"platform " + p, func(_ context.Context, o Options) Check { return emulator(o, p) }})
			}
		}
	}
	out = append(out, task{"disk", disk}, task{"privacy", private})
	for _, r := range o.Registries {
		out = append(out, task{"registry " + r.Host, func(ctx context.Context, o Options) Check { return reach(ctx, r, o.Now) }})
	}
	out = append(out, task{"credentials", credentials}, task{"git", gitCommand})
	if o.Repository != nil {
		out = append(out, task{"repository", repository})
	}
	return append(out, task{"clock", clock})
}

// limited makes the check of t within the timeout.
func limited(ctx context.Context, t task, o Options) Check {
	ctx, cancel := context.WithTimeout(ctx, o.Timeout)
	defer cancel()
	done := make(chan Check, 1)
	go func() { done <- t.run(ctx, o) }()
	select {
	case c := <-done:
		c.Name = t.name
		return c
	case <-ctx.Done():
	}
	// What ended at the same moment counts.
	select {
	case c := <-done:
		c.Name = t.name
		return c
	default:
	}
	if ctx.Err() == context.Canceled {
		return Check{t.name, Fail, "cancelled", ""}
	}
	return Check{t.name, Fail, fmt.Sprintf("no answer within %v", o.Timeout), ""}
}

func ok(format string, args ...any) Check {
	return Check{Status: OK, Detail: fmt.Sprintf(format, args...)}
}

func warn(hint, format string, args ...any) Check {
	return Check{Status: Warn, Hint: hint, Detail: fmt.Sprintf(format, args...)}
}

func fail(hint, format string, args ...any) Check {
	return Check{Status: Fail, Hint: hint, Detail: fmt.Sprintf(format, args...)}
}
