package crash

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Two commands at once in one home, of one project or of two: each comes to its
// end, and says so or what it was in the way of; what they leave is whole, and the
// next run finds nothing out of place.
func TestTwoAtOnceInOneHome(t *testing.T) {
	t.Parallel()
	random := seed(t)
	w := newWorld(t, random)
	w.repos = append(w.repos, "team/other")
	other := filepath.Join(w.dir, "other")
	put := func(dir, name, text string) {
		t.Helper()
		err := os.MkdirAll(dir, 0o755)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644)
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	put(other, "strata.yaml", "image: "+w.host+"/team/other\nplatforms: [linux/amd64]\nlayers: {only: {}}\n")
	put(other, "Dockerfile", "FROM scratch\nCOPY only.txt /\n")
	put(other, "rootfs.tar", string(rootfs(t, "imported", nil)))
	put(other, "only.txt", "0")
	build, push, prune := []string{"build"}, []string{"build", "--push"}, []string{"store", "prune"}
	in := []string{"registry", "import", filepath.Join(other, "rootfs.tar"), "--as", "odd/image:1"}
	reset := []string{"store", "reset", "--force"}
	pairs := []struct {
		one, two  []string
		elsewhere bool // the second one runs in the other project
	}{
		{push, push, false}, {build, build, false}, {push, push, true}, {build, push, true}, {build, prune, false}, {push, prune, false},
		{in, prune, false}, {in, in, false}, {in, build, true}, {prune, prune, false}, {build, reset, false}, {in, reset, false}, {[]string{"pull"}, prune, false},
		{[]string{"pull"}, build, false}, {[]string{"pull"}, reset, false},
	}
	w.run(push...)
	rounds := 15
	if os.Getenv("CRASH_KILLS") != "" {
		rounds = 60
	}
	for i := range rounds {
		p := pairs[i%len(pairs)]
		w.edit(fmt.Sprint("round ", i))
		put(other, "only.txt", fmt.Sprint("round ", i))
		var commands []*exec.Cmd
		var outs []*bytes.Buffer
		for n, args := range [][]string{p.one, p.two} {
			cmd, out := w.command(args...)
			if n == 1 && p.elsewhere {
				cmd.Dir = other
			}
			commands, outs = append(commands, cmd), append(outs, out)
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Duration(random.Int64N(int64(150 * time.Millisecond))))
		}
		for n, cmd := range commands {
			limit := time.AfterFunc(90*time.Second, func() { _ = cmd.Process.Kill() })
			err := cmd.Wait()
			text, args := outs[n].String(), strings.Join(cmd.Args[1:], " ")
			if !limit.Stop() {
				t.Fatalf("strata %s was still there after 90 seconds:\n%s", args, text)
			}
			beside := strings.Join(commands[1-n].Args[1:], " ")
			if err != nil && (!strings.Contains(text, "strata: error: ") || !strings.Contains(text, "strata: hint: ") || strings.Contains(text, "panic")) {
				t.Errorf("strata %s, beside strata %s: %v, without a word of what to do:\n%s", args, beside, err, text)
			} else if err != nil {
				t.Logf("strata %s, beside strata %s: %s", args, beside, text[strings.Index(text, "strata: error: "):])
			}
		}
		w.front.rest(t)
		w.ownStore()
		w.whole()
		w.run(push...)
		if out := w.run("plan", "--push"); !strings.Contains(out, "Nothing to do") {
			t.Errorf("round %d leaves something to do:\n%s", i, out)
		}
	}
	w.allWhole()
}
