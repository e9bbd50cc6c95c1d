package ci

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/export"
	"github.com/strata-build/strata/internal/printable"
)

// GitLabChild gives the work as the file of a child pipeline: a job for each job
// of the work, and one that publishes. Every job extends .strata, which
// include brings in: it installs Strata and logs in. With nothing to build there
// is still the job that publishes, since GitLab refuses a pipeline without jobs.
func GitLabChild(w Work, include string) []byte {
	var b strings.Builder
	names := []string{}
	for i := range w.Stages {
		names = append(names, fmt.Sprintf("stage %d", i+1))
	}
	if len(w.Publish) > 0 || len(names) == 0 {
		names = append(names, "publish")
	}
	fmt.Fprintf(&b, "include:\n  - local: %s\nstages: %s\n", quoted(include), quoted(names))
	for i, jobs := range w.Stages {
		for _, j := range jobs {
			fmt.Fprintf(&b, "\n%s:\n  extends: .strata\n  stage: %s\n  tags: %s\n  script:\n", quoted(j.Name), quoted(names[i]), quoted(j.Runner))
			if len(w.Publish) == 0 { // what is only tried stands on what is published
				fmt.Fprintf(&b, "    - %s\n", quoted(shellLine(j.pull())))
			}
			fmt.Fprintf(&b, "    - %s\n", quoted(shellLine(j.Command)))
		}
	}
	switch {
	case len(w.Publish) > 0:
		fmt.Fprintf(&b, "\npublish:\n  extends: .strata\n  stage: publish\n  script:\n    - %s\n", quoted(shellLine(w.Publish)))
	case len(w.Stages) == 0:
		fmt.Fprintf(&b, "\nnothing to do:\n  extends: .strata\n  stage: publish\n  script:\n    - strata plan\n")
	}
	return []byte(b.String())
}

// pull is the command that copies what the job's units stand on to the runner.
func (j Job) pull() []string {
	return slices.Concat(j.Command[:slices.Index(j.Command, "build")], []string{"pull", "--needed"}, j.Units)
}

// quoted gives JSON, which is YAML as well.
func quoted(v any) string {
	data, err := json.Marshal(v)
	if err != nil {
		panic("internal error: " + err.Error()) // strings and lists of strings
	}
	return string(printable.JSON(data))
}

// shellLine writes a command as a shell reads it.
func shellLine(words []string) string {
	out := make([]string, len(words))
	for i, w := range words {
		out[i] = export.ShellWord(w)
	}
	return strings.Join(out, " ")
}
