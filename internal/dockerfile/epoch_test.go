package dockerfile

import (
	"strings"
	"testing"
)

func TestEpoch(t *testing.T) {
	const src = "FROM scratch AS Src\nADD https://example.com/a.tar.gz /\n"
	tests := []struct {
		name, text string
		args       map[string]string
		want       Epoch
		engine     bool // all of it needs the engine
	}{
		{"none", "FROM a\nARG SOURCE_DATE_EPOCH\nCOPY b /\n", nil, Epoch{}, false},
		{"given", "FROM a\nCOPY b /\n", map[string]string{EpochArg: "5"}, Epoch{Value: "5"}, false},
		{"given wins", "ARG SOURCE_DATE_EPOCH=7\nFROM a\nCOPY b /\n", map[string]string{EpochArg: "5"}, Epoch{Value: "5"}, false},
		{"before FROM", "ARG T=7\nARG SOURCE_DATE_EPOCH=$T\nFROM a\nCOPY b /\n", nil, Epoch{Value: "7", Line: 2}, false},
		{"before FROM, from another", "ARG T=7\nARG SOURCE_DATE_EPOCH=$T\nFROM a\nCOPY b /\n", map[string]string{"T": "8"}, Epoch{Value: "8", Line: 2}, false},
		{"in a stage", "FROM a\nARG SOURCE_DATE_EPOCH=7\nCOPY b /\n", nil, Epoch{}, false},
		{"as environment", "FROM a\nENV SOURCE_DATE_EPOCH=7\nCOPY b /\n", nil, Epoch{}, false},
		{"given as nothing", "ARG SOURCE_DATE_EPOCH=7\nFROM a\nCOPY b /\n", map[string]string{EpochArg: ""}, Epoch{}, false},
		{"context", "FROM a\nCOPY b /\n", map[string]string{EpochArg: "context"}, Epoch{Value: "context", None: true}, true},
		{"stage", src + "FROM a\nCOPY b /\n", map[string]string{EpochArg: "src"},
			Epoch{Value: "src", Source: "FROM scratch AS src\nADD https://example.com/a.tar.gz /"}, true},
		{"not plain", "FROM a\nCOPY b /\n", map[string]string{EpochArg: "+5"}, Epoch{Value: "+5"}, true},
		{"wrong", "FROM a\nCOPY b /\n", map[string]string{EpochArg: "yesterday"}, Epoch{Value: "yesterday"}, true},
	}
	for _, tc := range tests {
		t.Run(tc.name, func(t *testing.T) {
			f, err := Parse("Dockerfile", []byte(tc.text))
			if err != nil {
				t.Fatal(err)
			}
			b, err := f.Analyze(Options{Args: tc.args})
			if err != nil {
				t.Fatal(err)
			}
			if b.Epoch != tc.want || b.Trunk.Empty == tc.engine {
				t.Errorf("%+v, without an engine %v, want %+v and %v", b.Epoch, b.Trunk.Empty, tc.want, !tc.engine)
			}
		})
	}
}

// An empty argument takes the Dockerfile's along and leaves that of a stage.
func TestEmptyEpochIsNone(t *testing.T) {
	f, err := Parse("Dockerfile", []byte("ARG SOURCE_DATE_EPOCH=7\nFROM a\nARG SOURCE_DATE_EPOCH=9\nLABEL t=${SOURCE_DATE_EPOCH}\n"))
	if err != nil {
		t.Fatal(err)
	}
	b, err := f.Analyze(Options{Args: map[string]string{EpochArg: ""}})
	if err != nil {
		t.Fatal(err)
	}
	if len(b.Args) != 1 || b.Args[0].Value != "9" || b.Epoch.Value != "" {
		t.Errorf("args %+v, epoch %+v", b.Args, b.Epoch)
	}
}

func TestEpochStageBehindTheTarget(t *testing.T) {
	f, err := Parse("Dockerfile", []byte("FROM a AS one\nCOPY b /\nFROM scratch AS src\nADD https://example.com/a /\n"))
	if err != nil {
		t.Fatal(err)
	}
	_, err = f.Analyze(Options{Target: "one", Args: map[string]string{EpochArg: "src"}})
	if err == nil || !strings.Contains(err.Error(), "the stage stands behind the one that is built") {
		t.Error(err)
	}
}
