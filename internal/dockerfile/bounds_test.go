package dockerfile

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// A few lines must not fill the memory, whatever they name.
func TestExpansionIsBounded(t *testing.T) {
	chain := func(format string) string {
		var b strings.Builder
		for i := 1; i < 14; i++ {
			fmt.Fprintf(&b, format, i, strings.Repeat(fmt.Sprintf("${a%d}", i-1), 8))
		}
		return b.String()
	}
	long := strings.Repeat("a", 60_000)
	for name, c := range map[string]struct{ text, want string }{
		"ARG of FROM":    {"ARG a0=xxxxxxxxxx\n" + chain("ARG a%d=%s\n") + "FROM $a13\n", "expand to more than"},
		"ARG":            {"FROM scratch\nARG a0=xxxxxxxxxx\n" + chain("ARG a%d=%s\n"), "expand to more than"},
		"ENV":            {"FROM scratch\nENV a0=xxxxxxxxxx\n" + chain("ENV a%d=%s\n"), "expand to more than"},
		"LABEL":          {"FROM scratch\nENV a0=" + long + "\nLABEL a=" + strings.Repeat("$a0", 400) + "\n", "expand to more than"},
		"replacement":    {"FROM scratch\nENV a=" + long + "\nLABEL a=${a//a/" + long[:600] + "}\n", "expand to more than"},
		"nesting":        {"FROM scratch\nLABEL a=" + strings.Repeat("${a:-", 5000) + "x" + strings.Repeat("}", 5000) + "\n", "nested more than 100 deep"},
		"heredoc":        {"FROM scratch\nENV a=" + long + "\nCOPY <<E /f\n" + strings.Repeat("$a\n", 400) + "E\n", "expand to more than"},
		"what is usual":  {"FROM scratch\nENV a=" + long[:1000] + " v=1.2.3\nENV b=$a:$a:${a}/x c=${v//./_} d=${v:-${a:-${b:-x}}}\n", ""},
		"many, not deep": {"FROM scratch\nENV a=x\nLABEL a=\"" + strings.Repeat("${a} ", 5000) + "\"\n", ""},
	} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		f, err := Parse("Dockerfile", []byte(c.text))
		if err == nil {
			_, err = f.Analyze(Options{Platform: "linux/amd64"})
		}
		runtime.ReadMemStats(&after)
		if grown := (after.TotalAlloc - before.TotalAlloc) >> 20; grown > 300 {
			t.Errorf("%s: %d MB were taken", name, grown)
		}
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %.300v", name, err)
		}
	}
}
