package spec

import (
	"fmt"
	"slices"
	"strings"
)

// suggest gives a hint for a word that is not among the known ones: the
// nearest of them, or all when there are few.
func suggest(word string, known []string) string {
	if len(known) == 0 {
		return ""
	}
	best, dist := "", 1+min(max(1, len(word)/2), 4)
	for _, k := range known[:min(len(known), maxCompared)] {
		if d := distance(strings.ToLower(word), strings.ToLower(k)); d < dist {
			best, dist = k, d
		}
	}
	all := slices.Clone(known)
	if len(all) > 24 {
		all = all[:24]
	}
	switch {
	case best != "":
		return fmt.Sprintf("did you mean %q? Known: %s", best, strings.Join(all, ", "))
	default:
		return "known: " + strings.Join(all, ", ")
	}
}

// maxCompared bounds the known words that one is compared with: each mistake in a
// large project would be compared with all that it has.
const maxCompared = 200

// distance is the number of single-letter edits (insert, delete, replace, swap
// of neighbours) between a and b.
func distance(a, b string) int {
	prev2, prev, cur := make([]int, len(b)+1), make([]int, len(b)+1), make([]int, len(b)+1)
	for j := range prev {
		prev[j] = j
	}
	for i := 1; i <= len(a); i++ {
		cur[0] = i
		for j := 1; j <= len(b); j++ {
			cost := 1
			if a[i-1] == b[j-1] {
				cost = 0
			}
			cur[j] = min(prev[j]+1, cur[j-1]+1, prev[j-1]+cost)
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				cur[j] = min(cur[j], prev2[j-2]+1)
			}
		}
		prev2, prev, cur = prev, cur, prev2
	}
	return prev[len(b)]
}
