package view

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestMarkdownTable(t *testing.T) {
	table := Table{Columns: []Column{{Title: "UNIT"}, {Title: "TIME", Right: true}, {Title: "REASON", Shrink: true}}}
	table.Row("app/cpu/amd64", "4 ms", "a|b changed")
	table.Row("ml", "", "<script>alert(1)</script> ![x](http://y) @someone `rm` two\nlines \x1b[31mred $x$ www.y.org")
	table.Row("short")
	var b strings.Builder
	if err := table.Markdown(&b); err != nil {
		t.Fatal(err)
	}
	want := `| UNIT | TIME | REASON |
| --- | --: | --- |
| app/cpu/amd64 | 4 ms | a\|b changed |
| ml |  | &lt;script>alert(1)&lt;/script> \!\[x\](http&#58;//y) \@someone \` + "`rm\\`" + ` two\\nlines \\x1b\[31mred &#36;x&#36; www&#46;y.org |
| short |  |  |
`
	if diff := cmp.Diff(want, b.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
