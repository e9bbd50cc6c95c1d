package ci

import (
	"cmp"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/strata-build/strata/internal/diag"
)

// GitHub's limits: jobs that one matrix makes, and bytes of one job's outputs
// (docs.github.com, "Actions limits" and "Passing information between jobs"). The
// outputs' is kept with room for their names.
const (
	mostJobs   = 256
	mostOutput = 1_000_000
)

// entry is one job of GitHub's matrix. args is what follows `strata build`: names
// of units and flags have no blanks in them.
type entry struct {
	Name    string   `json:"name"`
	Runner  []string `json:"runner"`
	Args    string   `json:"args"`
	Units   string   `json:"units"`
	Seconds float64  `json:"seconds"`
}

// GitHubMatrix gives the work as lines for $GITHUB_OUTPUT: stages=N, time=T, and
// for each stage that the project can have stageI={"include":[...]}, empty where
// the plan has none. Stages with more jobs than a matrix may have are put together
// by runner.
func GitHubMatrix(w Work, o WorkOptions, most int) ([]byte, error) {
	if o.OneStage {
		most = 1
	}
	for limit := mostJobs; ; limit /= 2 {
		out, err := matrixLines(w, o, most, limit)
		if err != nil {
			return nil, err
		}
		if len(out) <= mostOutput {
			return out, nil
		}
		if limit <= 1 {
			return nil, diag.Hint(fmt.Errorf("writing the matrix: %d bytes are more than the %d that GitHub takes as outputs of a job", len(out), mostOutput),
				"plan fewer units in one pipeline, for example a workflow for each variant: strata plan --format github-matrix LAYER/VARIANT")
		}
	}
}

func matrixLines(w Work, o WorkOptions, most, limit int) ([]byte, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "stages=%d\ntime=%s\n", len(w.Stages), w.Time)
	for i := range max(most, len(w.Stages)) {
		include := []entry{}
		if i < len(w.Stages) {
			jobs, err := o.atMost(w.Stages[i], limit)
			if err != nil {
				return nil, err
			}
			for _, j := range jobs {
				include = append(include, entry{
					Name: j.Name, Runner: j.Runner, Seconds: j.Seconds, Units: strings.Join(j.Units, " "),
					Args: strings.Join(j.Command[len(o.command("build")):], " "),
				})
			}
		}
		data, err := json.Marshal(map[string]any{"include": include})
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(&b, "stage%d=%s\n", i, data)
	}
	return []byte(b.String()), nil
}

// atMost puts jobs with the same runner together until there are no more than
// limit, or no two have the same. Each goes to the lightest of its runner's.
func (o WorkOptions) atMost(jobs []Job, limit int) ([]Job, error) {
	if len(jobs) <= limit {
		return jobs, nil
	}
	byRunner := map[string][]Job{}
	var order []string
	for _, j := range jobs {
		k := strings.Join(j.Runner, "\n") + "\n" + j.Platform
		if byRunner[k] == nil {
			order = append(order, k)
		}
		byRunner[k] = append(byRunner[k], j)
	}
	if len(order) > mostJobs {
		return nil, diag.Hint(fmt.Errorf("writing the matrix: a stage needs %d different runners, and GitHub runs %d jobs of a matrix", len(order), mostJobs),
			"plan fewer units in one pipeline")
	}
	var out []Job
	for _, k := range order {
		more := max(0, limit-len(order)) * len(byRunner[k]) / len(jobs)
		out = append(out, o.spread(byRunner[k], 1+more)...)
	}
	return out, nil
}

// spread puts jobs into n, the longest first, so that all take about as long.
func (o WorkOptions) spread(jobs []Job, n int) []Job {
	jobs = slices.Clone(jobs)
	slices.SortStableFunc(jobs, func(a, b Job) int { return cmp.Compare(b.Seconds, a.Seconds) })
	groups, load := make([][]Job, min(n, len(jobs))), make([]float64, min(n, len(jobs)))
	for _, j := range jobs {
		i := slices.Index(load, slices.Min(load))
		groups[i], load[i] = append(groups[i], j), load[i]+max(j.Seconds, 1)
	}
	var out []Job
	for _, g := range groups {
		out = append(out, o.join(g))
	}
	return out
}
