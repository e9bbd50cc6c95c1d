package plan

import (
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestStages(t *testing.T) {
	step := func(unit string, a Action, needs ...string) Step { return Step{Unit: unit, Action: a, Needs: needs} }
	tests := []struct {
		name  string
		steps []Step
		want  [][]string
	}{
		{"nothing to do", []Step{step("base", Reuse), step("app", Reuse), step("old", Skip)}, nil},
		{"a chain", []Step{step("base", Build), step("ml", Build, "base"), step("app", Append, "ml")},
			[][]string{{"base"}, {"ml"}, {"app"}}},
		{"only the end of a chain", []Step{step("base", Reuse), step("ml", Reuse), step("app", Append)}, [][]string{{"app"}}},
		{"each as early as its parents allow", []Step{
			step("base/cpu", Build), step("base/cuda", Reuse), step("ml/cpu", Build, "base/cpu"), step("app/cpu", Build, "ml/cpu"),
			step("app/cuda", Append),
		}, [][]string{{"base/cpu", "app/cuda"}, {"ml/cpu"}, {"app/cpu"}}},
		{"two parents", []Step{step("a", Build), step("b", Build, "a"), step("c", Build), step("d", Build, "c", "b")},
			[][]string{{"a", "c"}, {"b"}, {"d"}}},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			var got [][]string
			for _, stage := range (Plan{Steps: tc.steps}).Stages() {
				var names []string
				for _, s := range stage {
					names = append(names, s.Unit)
				}
				got = append(got, names)
			}
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("(-want +got):\n%s", diff)
			}
		})
	}
}
