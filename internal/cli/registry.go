package cli

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/strata-build/strata/internal/diag"
	"github.com/strata-build/strata/internal/registry"
	"github.com/strata-build/strata/internal/view"
)

func (a *app) registryCmd() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "registry",
		Short: "The registry on this machine: serve it, import into it, list it",
		Long: `The registry on this machine keeps images whose name has no registry host, and what
strata build makes without --push. What is built for HOST/REPO lies in it under that
name. What was imported for it, which a FROM finds before the registry that it names,
lies below strata.mirror/.`,
		Example: "  strata registry ls\n  strata registry serve",
		Args:    noCommand,
		RunE:    func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	cmd.AddCommand(a.serveCmd(), a.importCmd(), a.listCmd(), a.removeCmd())
	return cmd
}

func (a *app) importCmd() *cobra.Command {
	var name, platform string
	var env, command []string
	cmd := &cobra.Command{
		Use:   "import ROOTFS.tar",
		Short: "Make an image of a root file system",
		Long: `Import makes an image of one layer from a root file system in a tar archive (plain,
gzip or zstd; - is standard input) and keeps it in the registry on this machine, where
every FROM finds it before the registry that the name means. Nothing else is found
there. Files keep their times, in whole seconds; the newest is the image's. Other
platforms under the same name stay.`,
		Example: `  mmdebstrap --variant=minbase bookworm rootfs.tar
  strata registry import rootfs.tar --as debian:bookworm-slim --platform linux/amd64`,
		Args: takes(1, 1),
		RunE: func(cmd *cobra.Command, args []string) error {
			if name == "" {
				return usage("importing %q: --as must say what the image is called", args[0])
			}
			ref, err := registry.ParseRef(name)
			if err != nil {
				return err
			}
			in := io.NopCloser(a.machine.Stdin)
			if args[0] != "-" {
				path := args[0]
				if !filepath.IsAbs(path) {
					path = filepath.Join(a.machine.Dir, path)
				}
				if in, err = os.Open(path); err != nil {
					return fmt.Errorf("importing %q: %w", args[0], err)
				}
			}
			defer in.Close()
			e, err := a.openRegistry()
			if err != nil {
				return err
			}
			got, err := e.ImportRootfs(cmd.Context(), ref, platform, in, registry.ImportConfig{Env: env, Cmd: command})
			if err != nil {
				return err
			}
			view.Fprintf(a.machine.Stdout, "%s %s %s\n", ref.FamiliarString(), platform, got.Manifest.Digest)
			return nil
		},
	}
	f := cmd.Flags()
	f.StringVar(&name, "as", "", "`name` of the image, as a FROM would write it")
	f.StringVar(&platform, "platform", "linux/"+runtime.GOARCH, "`platform` of the root file system")
	f.StringArrayVar(&env, "env", nil, "environment of the image, `NAME=value`")
	f.StringArrayVar(&command, "cmd", nil, "one `word` of the image's command; repeat it for more")
	return cmd
}

func (a *app) listCmd() *cobra.Command {
	var all, asJSON bool
	cmd := &cobra.Command{
		Use: "ls [REPOSITORY]", Short: "List repositories and tags", Args: takes(0, 1),
		Long: `Ls lists what the registry on this machine holds, under the names that it keeps it
under: ghcr.io/user/app for what was built under that name without --push, and
strata.mirror/docker.io/library/debian for an image that was imported as debian,
which a FROM of any project finds.`,
		Example: "  strata registry ls\n  strata registry ls ghcr.io/user/app",
		RunE: func(_ *cobra.Command, args []string) error {
			e, err := a.openRegistry()
			if err != nil {
				return err
			}
			repos, err := e.Repositories()
			if err != nil {
				return err
			}
			if len(args) > 0 {
				repos = slices.DeleteFunc(repos, func(repo string) bool {
					return repo != args[0] && repo != registry.MirrorFolder+"/"+args[0]
				})
			}
			t := view.Table{Columns: []view.Column{{Title: "REPOSITORY"}, {Title: "TAG"}, {Title: "DIGEST"}, {Title: "UPDATED"}}}
			rows := []map[string]string{}
			for _, repo := range repos {
				tags, err := e.Tags(repo)
				if err != nil {
					return err
				}
				for _, tag := range tags {
					if _, attached := tag.Attachment(); !all && (attached || strings.HasPrefix(tag.Ref.Tag, "strata-")) {
						continue
					}
					t.Row(repo, tag.Ref.Tag, tag.Digest.Encoded()[:12], tag.Updated.Format(time.DateTime))
					rows = append(rows, map[string]string{"repository": repo, "tag": tag.Ref.Tag, "digest": tag.Digest.String()})
				}
			}
			if asJSON {
				return writeJSON(a.machine.Stdout, rows)
			}
			none := "the registry on this machine holds nothing yet"
			if len(args) > 0 {
				none = "the registry on this machine has no tag of " + args[0]
			}
			return a.writeTable(t, none)
		},
	}
	cmd.Flags().BoolVarP(&all, "all", "a", false, "also the tags that Strata keeps for itself")
	cmd.Flags().BoolVar(&asJSON, "json", false, "write JSON")
	return cmd
}

func (a *app) removeCmd() *cobra.Command {
	return &cobra.Command{
		Use: "rm IMAGE...", Short: "Remove tags; their content goes with strata store prune", Args: takes(1, -1),
		Long: `Rm removes tags from the registry on this machine. The disk space is free again after
strata store prune.`,
		Example: "  strata registry rm debian:bookworm-slim",
		RunE: func(cmd *cobra.Command, args []string) error {
			c, err := a.client()
			if err != nil {
				return err
			}
			for _, arg := range args {
				ref, err := a.here(cmd.Context(), c, arg)
				if err != nil {
					return err
				}
				if err := c.Delete(cmd.Context(), ref); errors.Is(err, registry.ErrNotFound) {
					return diag.Hint(err, "`strata registry ls` lists what is there")
				} else if err != nil {
					return err
				}
			}
			return nil
		},
	}
}

// here finds the image of this machine that a name means: one that was built, or
// one that was imported.
func (a *app) here(ctx context.Context, c *registry.Client, word string) (registry.Ref, error) {
	named, err := registry.ParseRef(word)
	if err != nil || named.Host == registry.EmbeddedHost {
		return named, err
	}
	ref, err := a.parseImage(ctx, c, word)
	if err != nil {
		return ref, err
	}
	_, imported := c.Resolve(ctx, named.Mirror())
	switch {
	case imported != nil:
		return ref.Local(), nil
	case ref.Host == registry.EmbeddedHost:
		return ref, diag.Hint(fmt.Errorf("%s was both built and imported on this machine", word),
			"name the one that you mean: %s, or %s", ref, named.Mirror())
	}
	return named.Mirror(), nil
}
