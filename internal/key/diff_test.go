package key

import "testing"

func TestOwn(t *testing.T) {
	recipe := func(label string, fields ...string) Recipe {
		return Recipe{lines: []Line{{Label: label, Fields: fields}}}
	}
	tests := []struct {
		name     string
		old, new Recipe
		want     bool
	}{
		{"a parent", recipe(labelParent, "base", "1"), recipe(labelParent, "base", "2"), false},
		{"a base image", recipe(labelExternal, "debian", "linux/amd64", "1"), recipe(labelExternal, "debian", "linux/amd64", "2"), false},
		{"a slot", recipe(labelEpoch, "2026-W47"), recipe(labelEpoch, "2026-W48"), false},
		{"an instruction", recipe(labelDo, "0", "RUN a"), recipe(labelDo, "0", "RUN b"), true},
		{"a file", recipe(labelFile, "", "a", "file", "644", "1"), recipe(labelFile, "", "a", "file", "600", "1"), true},
		{"an argument", recipe(labelArg, "A", "1"), recipe(labelArg, "A", "2"), true},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			changes := Diff(tt.old, tt.new)
			if len(changes) == 0 {
				t.Fatal("there is no change")
			}
			for _, c := range changes {
				if c.Own() != tt.want {
					t.Errorf("%s: %t, want %t", c, c.Own(), tt.want)
				}
			}
		})
	}
}
