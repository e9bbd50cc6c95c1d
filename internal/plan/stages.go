package plan

// Stages gives the steps with work to do in stages: a step comes after the stage
// of every parent that this plan makes, and as early as that allows. Within a
// stage they have the plan's order. A plan with nothing to do has no stage.
func (p Plan) Stages() [][]Step {
	at := map[string]int{} // unit -> its stage, counted from 1
	var out [][]Step
	for _, s := range p.Steps {
		if !s.works() {
			continue
		}
		stage := 0
		for _, parent := range s.Needs {
			stage = max(stage, at[parent])
		}
		at[s.Unit] = stage + 1
		if stage == len(out) {
			out = append(out, nil)
		}
		out[stage] = append(out[stage], s)
	}
	return out
}

// works says whether the step makes something.
func (s Step) works() bool { return s.Action != Reuse && s.Action != Skip }
