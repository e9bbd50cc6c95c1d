package cli

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/lock"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/watch"
)

type watchFlags struct {
	every, timeout                   days
	policies                         []string
	command, webhook, secretEnv      string
	listen, name                     string
	door                             doorFlags // who may come in at listen
	once, dryRun, json, push, update bool
}

const watchHelp = `Watch notices what becomes old by itself, and acts: images of others that have
moved since strata.lock pinned them, and refresh slots of layers that turn. It
runs until it is ended, or, with --once, looks and acts once.

Each image is asked for by a HEAD request in every interval, give or take a
tenth; a registry that limits requests is left alone for as long as it asks, and
errors make looks rarer. Each policy acts on each event, one action at a time:

  report   a line on standard output, or a line of JSON with --json
  command  a shell command: the event is JSON on its standard input, and in
           STRATA_EVENT, STRATA_IMAGE, STRATA_OLD, STRATA_NEW, STRATA_LAYER,
           STRATA_SLOT, STRATA_UNITS, STRATA_DELIVERY, STRATA_ATTEMPT
  webhook  the event is posted as JSON, signed in X-Strata-Signature-256
  rebuild  for a slot what strata build --refresh does, for the units of the
           layer and what stands on them; for an image that moved, with
           --update-lock, the same against the new image, and when that has come
           through the new pin is written to strata.lock

What fails is tried again after 0, 1, 2, 4, 8, 16 and then every 32 hours, what
failed most comes last. Every slot is acted on once, over restarts too; of slots
that passed while nothing ran the newest counts. An action that was cut by a
crash is taken again, under the same delivery ID.

docs/watch.md has the events, the signature, metrics and a systemd unit.

`

func (a *app) watchCmd() *cobra.Command {
	var f watchFlags
	cmd := &cobra.Command{
		Use:   "watch",
		Short: "Act when external images move and refresh slots turn",
		Long:  watchHelp + exitCodesHelp(),
		Example: `  strata watch --dry-run                     # what it would do, and when
  strata watch --policy rebuild --push --listen 127.0.0.1:9180
  strata watch --command 'mail -s "$STRATA_IMAGE moved" ops@example.com'
  strata watch --webhook https://ci.example.com/hook --webhook-secret-env HOOK_SECRET
  strata watch --once --policy rebuild       # from cron`,
		Args: takes(0, 0),
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := a.checkWatch(&f); err != nil {
				return err
			}
			return a.watch(cmd.Context(), f)
		},
	}
	fl := cmd.Flags()
	f.every, f.timeout = days(15*time.Minute), days(time.Hour)
	fl.Var(&f.every, "every", "`time` between two looks at an image")
	fl.StringSliceVar(&f.policies, "policy", nil, "`what` to do: report, command, webhook, rebuild; several with commas (default: what the other flags ask for, or report)")
	completesFlag(cmd, "policy", watchPolicies...)
	fl.StringVar(&f.command, "command", "", "shell `command` of the policy command")
	fl.Var(&f.timeout, "command-timeout", "end a command after this `time`; 0 is never")
	fl.StringVar(&f.webhook, "webhook", "", "`URL` of the policy webhook")
	fl.StringVar(&f.secretEnv, "webhook-secret-env", "", "`name` of the environment variable with the secret that signs webhooks")
	fl.BoolVar(&f.update, "update-lock", false, "rebuild when an external image moves, and write strata.lock")
	fl.BoolVar(&f.push, "push", false, "rebuild into the registry that the image names instead of the one on this machine")
	fl.StringVar(&f.listen, "listen", "", "serve /healthz and /metrics on this `address`, such as 127.0.0.1:9180")
	f.door.add(fl, "listen-")
	fl.BoolVar(&f.once, "once", false, "look and act once, and end")
	fl.BoolVar(&f.dryRun, "dry-run", false, "show what would be done and when, and stop; no registry is asked")
	fl.BoolVar(&f.json, "json", false, "write JSON, a line an event")
	fl.StringVar(&f.name, "name", "", "`name` that the state is kept under (default: the project's image)")
	a.engineFlags(cmd)
	return cmd
}

const rebuildPolicy = "rebuild"

var watchPolicies = []string{watch.ReportPolicy, watch.CommandPolicy, watch.WebhookPolicy, rebuildPolicy}

// checkWatch fills in what the flags leave open and refuses what does not fit
// together.
func (a *app) checkWatch(f *watchFlags) error {
	if len(f.policies) == 0 {
		for policy, asked := range map[string]bool{
			watch.CommandPolicy: f.command != "", watch.WebhookPolicy: f.webhook != "", rebuildPolicy: f.update || f.push,
		} {
			if asked {
				f.policies = append(f.policies, policy)
			}
		}
		if len(f.policies) == 0 {
			f.policies = []string{watch.ReportPolicy}
		}
	}
	slices.SortFunc(f.policies, func(a, b string) int { return slices.Index(watchPolicies, a) - slices.Index(watchPolicies, b) })
	f.policies = slices.Compact(f.policies)
	has := func(policy string) bool { return slices.Contains(f.policies, policy) }
	for _, p := range f.policies {
		if !slices.Contains(watchPolicies, p) {
			return usage("reading --policy: %q is none of %s", p, strings.Join(watchPolicies, ", "))
		}
	}
	switch {
	case time.Duration(f.every) < time.Second:
		return usage("reading --every: %s is less than a second", time.Duration(f.every))
	case has(watch.CommandPolicy) != (f.command != ""):
		return usage("--policy command and --command need each other")
	case has(watch.WebhookPolicy) != (f.webhook != ""):
		return usage("--policy webhook and --webhook need each other")
	case (f.update || f.push) && !has(rebuildPolicy):
		return usage("--update-lock and --push are about --policy rebuild")
	case f.once && f.listen != "":
		return usage("--listen is of no use with --once")
	case f.listen == "" && f.door.given():
		return usage("--listen-host, --listen-htpasswd, --listen-tls-cert and --listen-tls-key are about --listen")
	case f.webhook == "":
		return nil
	case !strings.HasPrefix(f.webhook, "https://") && !strings.HasPrefix(f.webhook, "http://"):
		return usage("reading --webhook: it must begin with https:// or http://")
	case f.secretEnv == "":
		return diag.Hint(errors.New("webhooks are signed, and no secret is named"),
			"put one into an environment variable, and name that: --webhook-secret-env HOOK_SECRET")
	case a.machine.Getenv(f.secretEnv) == "":
		return diag.Hint(fmt.Errorf("the secret that signs webhooks is empty: $%s", f.secretEnv), "export %s=...", f.secretEnv)
	}
	return nil
}

func (a *app) watch(ctx context.Context, f watchFlags) error {
	p, err := a.project()
	if err != nil {
		return err
	}
	for _, w := range p.Warnings {
		a.warn(w)
	}
	c := watch.Config{
		Name: p.Image, Dir: a.dir(), State: filepath.Join(a.home(), "watch"), Every: time.Duration(f.every), Now: a.machine.Now,
		Load: func(ctx context.Context) (watch.Project, error) { return a.fresh().watched(ctx) }, Poll: a.poll, Emit: a.noteWriter(f.json),
	}
	if f.name != "" {
		c.Name = f.name
	}
	if f.update { // without, it only says what to do
		c.Ways = map[string]string{rebuildPolicy: "update-lock"}
	}
	if pins, err := a.lockFile(); err == nil && pins == nil {
		a.warn(diag.Finding{Text: "there is no strata.lock: external images are not watched", Hint: "`strata lock` writes it"})
	}
	if f.dryRun {
		st, err := watch.Plan(ctx, c)
		if err != nil {
			return err
		}
		return a.showWatch(st, f)
	}
	if err := a.secureHome(); err != nil {
		return err
	}
	s, err := watch.Open(ctx, c)
	if err != nil {
		return err
	}
	s.SetPolicies(a.watchPolicies(s, f)...)
	if f.command != "" {
		a.machine.cleanup.begin()
		defer a.machine.cleanup.end()
	}
	if f.once {
		return errors.Join(s.Once(ctx), s.Close())
	}
	stop, err := a.serveWatch(s, f)
	if err == nil {
		err = s.Run(ctx)
	}
	return errors.Join(err, stop(), s.Close())
}

// fresh is another invocation with the same flags. Each look and each build of a
// service has its own, so that nothing stays open in between: garbage can be
// collected, and the engine serves others.
func (a *app) fresh() *app {
	return &app{machine: a.machine, raw: a.raw, args: a.args, flags: a.flags, limits: a.limits}
}

// watched reads the project anew. It asks no registry.
func (a *app) watched(ctx context.Context) (watch.Project, error) {
	p, err := a.project()
	if err != nil {
		return watch.Project{}, err
	}
	pins, err := a.lockFile()
	if err != nil {
		return watch.Project{}, err
	}
	c := strata.Config{Project: p, Platform: "linux/" + runtime.GOARCH, Now: a.machine.Now(), Lock: pins}
	layers, err := strata.Refreshing(ctx, c)
	if err != nil {
		return watch.Project{}, err
	}
	var out watch.Project
	for _, l := range layers {
		out.Layers = append(out.Layers, watch.Layer{Name: l.Layer, Refresh: l.Refresh, Units: l.Units})
	}
	if pins == nil {
		return out, nil
	}
	units, err := strata.UnitsOn(ctx, c)
	if err != nil {
		return watch.Project{}, err
	}
	for _, i := range pins.Images {
		ref, err := registry.ParseRef(i.Name)
		if err != nil {
			return watch.Project{}, err
		}
		if ref.Digest != "" || len(units[i.Name]) == 0 {
			continue // can't move, or is not used
		}
		out.Images = append(out.Images, watch.Image{Name: i.Name, Host: ref.Host, Pinned: i.Index, Units: units[i.Name]})
	}
	return out, nil
}

const (
	pollTimeout  = 30 * time.Second
	pollsAtOnce  = 16
	neverRetries = -1 // the service has its own waits
)

// poll asks for images. The registries are open only for as long as that takes.
func (a *app) poll(ctx context.Context, looks []watch.Look) []watch.Answer {
	out := make([]watch.Answer, len(looks))
	b := a.fresh()
	defer b.close() // nothing was written
	e, err := b.openRegistry()
	var pins *lock.File
	if err == nil {
		pins, err = b.lockFile()
	}
	if err != nil {
		for i := range out {
			out[i].Err = err
		}
		return out
	}
	client := registry.New(registry.Options{
		Embedded: e, MirrorReads: true, Offline: a.flags.offline, UserAgent: "strata/" + a.machine.Version, Retries: neverRetries, Limits: a.limits,
	})
	free := make(chan struct{}, pollsAtOnce)
	var wg sync.WaitGroup
	for i, l := range looks {
		wg.Go(func() {
			free <- struct{}{}
			defer func() { <-free }()
			ctx, cancel := context.WithTimeout(ctx, pollTimeout)
			defer cancel()
			out[i] = look(ctx, client, pins, l)
		})
	}
	wg.Wait()
	return out
}

// look asks for one image by a HEAD request. Only for a digest that is new the
// index is fetched too: what moved may be a platform that nobody uses here, or
// an attestation.
func look(ctx context.Context, c *registry.Client, pins *lock.File, l watch.Look) watch.Answer {
	ref, err := registry.ParseRef(l.Image.Name)
	if err != nil {
		return watch.Answer{Err: err}
	}
	d, err := c.Resolve(ctx, ref)
	a := watch.Answer{Digest: d.Digest}
	if err == nil && !slices.Contains(l.Known, d.Digest) {
		a.Same, err = samePlatforms(ctx, c, pins, l.Image.Name, ref.WithDigest(d.Digest))
	}
	if err == nil {
		return a
	}
	a = watch.Answer{Err: err}
	var failed *registry.Error
	if errors.As(err, &failed) {
		a.Limited, a.RetryAfter = failed.Kind == registry.RateLimited, failed.RetryAfter
	}
	return a
}

// samePlatforms says whether an image is on each pinned platform what is pinned.
func samePlatforms(ctx context.Context, c *registry.Client, pins *lock.File, name string, at registry.Ref) (bool, error) {
	i := slices.IndexFunc(pins.Images, func(i lock.Image) bool { return i.Name == name })
	if i < 0 {
		return false, nil
	}
	d, body, err := c.Manifest(ctx, at)
	if err != nil {
		return false, err
	}
	for platform, pin := range pins.Images[i].Platforms {
		got := d
		if registry.IsIndex(d.MediaType) {
			if got, err = registry.PlatformOf(body, platform); err != nil {
				return false, nil // it lacks one now: that is news
			}
		}
		if got.Digest != pin.Digest {
			return false, nil
		}
	}
	return true, nil
}
