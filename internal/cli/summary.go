package cli

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	strata "github.com/strata-build/strata"
	"github.com/strata-build/strata/internal/view"
)

// summaryFlag is for commands that a pipeline runs.
func summaryFlag(cmd *cobra.Command, to *string) {
	cmd.Flags().StringVar(to, "summary", "", "append what is done and why to this `file` as Markdown, such as $GITHUB_STEP_SUMMARY")
}

// summarize appends to the file of --summary, where there is one.
func (a *app) summarize(file string, write func(io.Writer) error) error {
	if file == "" {
		return nil
	}
	file, err := a.target(file)
	if err != nil {
		return fmt.Errorf("writing the summary: %w", err)
	}
	f, err := os.OpenFile(file, os.O_APPEND|os.O_CREATE|os.O_WRONLY, 0o644)
	if err != nil {
		return fmt.Errorf("writing the summary %q: %w", file, pathCause(err))
	}
	err = write(f)
	if e := f.Close(); err == nil {
		err = e
	}
	if err != nil {
		return fmt.Errorf("writing the summary %q: %w", file, err)
	}
	return nil
}

// planSummary writes a plan as Markdown.
func planSummary(w io.Writer, p *strata.Pass) error {
	view.Fprintf(w, "### Plan for %s\n\n", view.MarkdownCode(p.Config.Version.Name))
	t := view.Table{Columns: []view.Column{{Title: "Unit"}, {Title: "Step"}, {Title: "Time", Right: true}, {Title: "Reason"}}}
	for _, s := range p.Plan.Steps {
		t.Row(s.Unit, string(s.Action), estimate(s), reason(s))
	}
	if err := t.Markdown(w); err != nil {
		return err
	}
	_, err := view.Fprintf(w, "\n%s%s\n\n", view.MarkdownText(summary(p.Plan)), savedWords(p, nil))
	return err
}

// resultSummary writes what a run did as Markdown; published says that it was
// strata publish.
func resultSummary(w io.Writer, p *strata.Pass, res strata.Result, took time.Duration, published bool) error {
	what, gain := "Built", ""
	if published {
		what = "Published"
	}
	view.Fprintf(w, "### %s %s\n\n", what, view.MarkdownCode(p.Config.Version.Name))
	t := view.Table{Columns: []view.Column{
		{Title: "Unit"}, {Title: "Step"}, {Title: "Time", Right: true}, {Title: "Size", Right: true}, {Title: "Sent", Right: true}, {Title: "Reason"},
	}}
	made := map[string]float64{}
	for _, m := range res.Units {
		made[m.Unit] = m.Seconds
		t.Row(m.Unit, string(m.Action), view.Duration(asDuration(m.Seconds)), view.Bytes(m.Size), view.Bytes(m.Pushed), m.Reason)
	}
	if err := t.Markdown(w); err != nil {
		return err
	}
	if !published { // what others have made is no time saved
		gain = savedWords(p, made)
	}
	view.Fprintf(w, "\nIn %s; %s.%s\n\n", view.Duration(took), view.MarkdownText(tagsWord(p, res)), gain)
	var names []string
	for _, m := range res.Tags {
		names = append(names, "- "+view.MarkdownCode(m.Ref.Repository().WithTag(m.Ref.Tag).FamiliarString()))
	}
	if len(names) == 0 {
		return nil
	}
	slices.Sort(names)
	_, err := view.Fprintf(w, "<details><summary>Tags</summary>\n\n%s\n\n</details>\n\n", view.Painted(strings.Join(names, "\n")))
	return err
}

func asDuration(seconds float64) time.Duration { return time.Duration(seconds * float64(time.Second)) }

// savedWords says how much time is saved, where earlier runs tell.
func savedWords(p *strata.Pass, made map[string]float64) string {
	seconds, known := savedSeconds(p, made)
	if !known || seconds < 1 {
		return ""
	}
	return fmt.Sprintf(" **About %s saved** against building everything, by earlier runs.", view.Duration(asDuration(seconds)))
}
