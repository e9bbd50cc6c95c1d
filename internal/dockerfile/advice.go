package dockerfile

// needs says what forces the engine in the final stage.
func (a *analysis) needs(c *cut) []Need {
	var out []Need
	for _, o := range c.head {
		if o.why == "" && a.engine == "" {
			continue
		}
		out = append(out, Need{Line: o.in.line, Instruction: o.in.text, Why: o.why})
	}
	return out
}
