package simulate

import (
	"fmt"
	"html"
	"strings"

	"github.com/strata-build/strata/internal/printable"
)

const pageStyle = `<style>
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,-apple-system,'Segoe UI','DejaVu Sans',sans-serif;max-width:1180px;margin:24px auto;padding:0 16px;background:light-dark(#ffffff,#0f172a);color:light-dark(#111827,#e5e7eb)}
table{border-collapse:collapse;margin:12px 0 24px}
th,td{padding:4px 14px 4px 0;text-align:left;border-bottom:1px solid light-dark(#d1d5db,#374151)}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.soft{color:light-dark(#6b7280,#9ca3af)}svg{max-width:100%;height:auto}
</style>
`

// markup writes a text of others, such as the subject of a commit, so that HTML
// and SVG show it and nothing of it acts on what reads the page's source.
func markup(s string) string { return html.EscapeString(printable.Text(s)) }

// Page gives one page with the picture, the tables and what the figures rest on.
// It needs nothing but itself.
func (r *Result) Page() []byte {
	var b strings.Builder
	esc := markup
	fmt.Fprintf(&b, "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><meta name=\"viewport\" content=\"width=device-width\">\n<title>%s</title>\n%s</head><body>\n", esc(r.Headline()), pageStyle)
	fmt.Fprintf(&b, "<h1>%s</h1>\n%s", esc(r.Headline()), r.SVG())
	b.WriteString("<h2>Layers</h2>\n<table><tr><th>layer</th><th class=n>units</th><th class=n>reused</th><th class=n>appended</th><th class=n>rebased</th><th class=n>built</th><th class=n>reuse</th><th>goal</th><th class=n>refreshed</th><th>a build</th><th>adds</th></tr>\n")
	for _, l := range r.Layers {
		fmt.Fprintf(&b, "<tr><td>%s</td><td class=n>%d</td><td class=n>%d</td><td class=n>%d</td><td class=n>%d</td><td class=n>%d</td><td class=n>%s</td><td>%s</td><td class=n>%d</td><td>%s (%s)</td><td>%s (%s)</td></tr>\n",
			esc(l.Layer), l.Units, l.Reused, l.Appended, l.Rebased, l.Built, l.ReuseText(), esc(l.GoalText()), l.Refreshed, span(l.Seconds), l.TimeBasis, bytesText(l.Bytes), l.SizeBasis)
	}
	b.WriteString("</table>\n<h2>Ways of building</h2>\n<table><tr><th>way</th><th class=n>units built</th><th class=n>time</th><th class=n>pushed</th><th class=n>pulled</th></tr>\n")
	for _, m := range r.Models {
		c := r.Cost(m.Name)
		fmt.Fprintf(&b, "<tr><td>%s</td><td class=n>%d</td><td class=n>%s</td><td class=n>%s</td><td class=n>%s</td></tr>\n", esc(m.Title), c.Built, span(c.Seconds), bytesText(c.Pushed), bytesText(c.Pulled))
	}
	b.WriteString("</table>\n<h2>Which change rebuilds what</h2>\n<table><tr><th>change</th><th>layers made</th><th class=n>time</th><th class=n>rebuilding all</th><th>frequency</th><th class=n>runs</th><th>basis</th></tr>\n")
	for _, m := range r.Matrix() {
		fmt.Fprintf(&b, "<tr><td>%s</td><td>%s</td><td class=n>%s</td><td class=n>%s</td><td>%s</td><td class=n>%d</td><td>%s</td></tr>\n",
			esc(m.Change), esc(strings.Join(m.Layers, " + ")), span(m.Seconds), span(m.Rebuild), m.Frequency, m.Runs, m.Basis)
	}
	b.WriteString("</table>\n<h2>What the figures rest on</h2>\n<ul class=soft>\n")
	for _, m := range r.Models {
		fmt.Fprintf(&b, "<li><b>%s</b>: %s</li>\n", esc(m.Title), esc(m.About))
	}
	for _, n := range r.Notes {
		fmt.Fprintf(&b, "<li>%s</li>\n", esc(n))
	}
	for _, k := range r.Skipped {
		fmt.Fprintf(&b, "<li>%s, from %s on: %s</li>\n", plural(len(k.Commits), "commit"), esc(short(k.Commits[0])), esc(k.Reason))
	}
	b.WriteString("</ul>\n</body></html>\n")
	return []byte(b.String())
}

// bytesText is how a size is written for people, in decimal units.
func bytesText(n int64) string {
	f := float64(n)
	for _, unit := range []string{"B", "kB", "MB", "GB"} {
		if f < 1000 {
			if unit == "B" {
				return fmt.Sprintf("%.0f B", f)
			}
			return fmt.Sprintf("%.1f %s", f, unit)
		}
		f /= 1000
	}
	return fmt.Sprintf("%.1f TB", f)
}
