package instancetype

import (
	"fmt"
	"path"
	"slices"
	"strings"
)

// A pattern is a glob ("c6i.*", "t?.micro"); with a leading "!" it excludes.
// Names are compared in lower case.

// maxPatternLength is more than any name has.
const maxPatternLength = 64

// checkPattern says what is wrong with a pattern.
func checkPattern(p string) error {
	bare := strings.TrimPrefix(p, "!")
	if bare == "" {
		return fmt.Errorf("empty pattern")
	}
	if len(bare) > maxPatternLength {
		return fmt.Errorf("pattern of more than %d characters", maxPatternLength)
	}
	if _, err := path.Match(bare, ""); err != nil {
		return fmt.Errorf("malformed pattern %q", p)
	}
	return nil
}

// isExact says whether the pattern names one thing.
func isExact(p string) bool { return !strings.ContainsAny(p, `*?[\!`) }

// matches says whether the name is accepted by the patterns: no "!" pattern
// matches it, and one of the others does, if there are others.
func matches(patterns []string, name string) bool {
	if len(patterns) == 0 {
		return true
	}
	name = strings.ToLower(name)
	accepted, positive := false, false
	for _, p := range patterns {
		bare, excludes := strings.CutPrefix(strings.ToLower(p), "!")
		ok, _ := path.Match(bare, name) // patterns were checked; a malformed one matches nothing
		switch {
		case excludes && ok:
			return false
		case !excludes:
			positive = true
			accepted = accepted || ok
		}
	}
	return accepted || !positive
}

// named says whether a pattern names exactly this.
func named(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return isExact(p) && strings.EqualFold(p, name) })
}

// asked says whether a pattern that does not merely exclude matches the name.
func asked(patterns []string, name string) bool {
	return slices.ContainsFunc(patterns, func(p string) bool { return !strings.HasPrefix(p, "!") }) && matches(patterns, name)
}

// closest returns up to n known names that look like the given one, the most
// similar first: the first letter is right, and of the others at least two
// thirds.
func closest(name string, known []string, n int) []string {
	type scored struct {
		name     string
		distance int
	}
	var found []scored
	name = strings.ToLower(name)
	for _, k := range known {
		if name == "" || k == "" || strings.ToLower(k)[0] != name[0] {
			continue
		}
		d := editDistance(name, strings.ToLower(k))
		if d <= max(1, len(name)/3) {
			found = append(found, scored{k, d})
		}
	}
	slices.SortStableFunc(found, func(a, b scored) int {
		if a.distance != b.distance {
			return a.distance - b.distance
		}
		return strings.Compare(a.name, b.name)
	})
	var names []string
	for _, f := range found[:min(n, len(found))] {
		names = append(names, f.name)
	}
	return names
}

// editDistance is Levenshtein's.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			substituted := diagonal
			if a[i] != b[j] {
				substituted++
			}
			diagonal = row[j+1]
			row[j+1] = min(substituted, diagonal+1, row[j]+1)
		}
	}
	return row[len(b)]
}

// orList is "a", "a or b", "a, b or c".
func orList(names []string) string {
	if len(names) < 2 {
		return strings.Join(names, "")
	}
	last := len(names) - 1
	return strings.Join(names[:last], ", ") + " or " + names[last]
}
