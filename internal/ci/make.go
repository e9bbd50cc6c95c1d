package ci

import (
	"bytes"
	"fmt"
	"path"

	"github.com/strata-build/strata/internal/export"
	"github.com/strata-build/strata/internal/generated"
	"github.com/strata-build/strata/internal/spec"
)

// MakeOptions say how a Makefile is written.
type MakeOptions struct {
	// Name is the file's; "" is Makefile. Any other is a file to include, whose
	// general targets have names of their own: strata-help, strata-plan.
	Name string
}

// Makefile is the name under which make looks by itself.
const Makefile = "Makefile"

// Make gives a Makefile whose targets call strata: publish-VARIANT-LAYER-layered
// and publish-VARIANT-layered, as `strata export make` names those that call
// docker buildx.
func (m *Model) Make(o MakeOptions) ([]File, error) {
	if err := m.inert(); err != nil {
		return nil, err
	}
	command, prefix := "ci make", ""
	if o.Name == "" {
		o.Name = Makefile
	}
	if o.Name != Makefile {
		command, prefix = command+" --name "+o.Name, "strata-"
	}
	w := makeWriter{prefix: prefix}
	w.line("# @mark\n#")
	if prefix == "" {
		w.line("# Targets for the images of this project: make help")
	} else {
		w.line("# Targets for the images of this project, for a Makefile to include: make strata-help")
	}
	w.line("\nSTRATA ?= strata")
	flags := ""
	if m.File != "" && m.File != string(spec.KindStrata) {
		flags = " -f " + export.MakeWord(m.File)
	}
	w.line("# VERSION counts where make or a Makefile sets it, not from the environment: make publish VERSION=1.4.0")
	w.line("STRATA_VERSION = $(if $(filter %s,$(firstword $(origin VERSION))),$(VERSION))", export.FromMake)
	w.line(`STRATA_RUN = $(STRATA)%s $(if $(STRATA_VERSION),--tag-version '$(subst ','\'',$(STRATA_VERSION))')`, flags)
	if prefix == "" {
		w.line("\n.DEFAULT_GOAL := help")
	}
	w.line("\n.PHONY: %[1]shelp\n%[1]shelp: ## This list", prefix)
	w.text.WriteString(export.HelpRecipe)
	w.target(prefix+"plan", "Show what a build would do, and why", "plan --push")
	w.target(prefix+"build", "Build everything, on this machine", "build")
	w.target(prefix+"publish", "Build what is missing, publish it, move the tags", "build --push")
	w.target(prefix+"refresh", "The same, with the layers whose refresh is due", "build --push --refresh")
	for _, t := range m.Targets {
		unit := t.Layer
		if t.Variant != "" {
			unit += "/" + t.Variant
		}
		w.target(t.Name, "Build "+t.Help()+", on this machine", "build "+unit)
		w.target("publish-"+t.Name, "Build and publish "+t.Help(), "build --push "+unit)
	}
	return []File{{Path: path.Join(m.Folder, o.Name), Data: generated.Mark(w.text.String(), command)}}, nil
}

type makeWriter struct {
	prefix string
	text   bytes.Buffer
}

func (w *makeWriter) line(format string, args ...any) { fmt.Fprintf(&w.text, format+"\n", args...) }

func (w *makeWriter) target(name, help, command string) {
	w.line("\n.PHONY: %[1]s\n%[1]s: ## %[2]s\n\t$(STRATA_RUN) %[3]s", name, help, command)
}
