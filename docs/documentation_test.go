// Package docs_test holds the pages against the code and against each other.
package docs_test

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

const root = ".."

// What users meet by name (metrics, reasons of conditions and events,
// annotations, flags of kip run) is explained on a page.
func TestNamesAreDocumented(t *testing.T) {
	tests := map[string]struct {
		reason  string
		in      string // the code that declares the names
		name    *regexp.Regexp
		page    string
		atLeast int // so many names are found while the expression fits the code
	}{
		"metrics": {
			"who is paged for a metric looks it up", "internal", regexp.MustCompile(`Name:\s+"(kip_[a-z_]+)"`), "operations.md", 15,
		},
		"reasons": {
			"a reason is all that a user sees of a wait", "api/v1beta1", regexp.MustCompile(`Reason[A-Za-z]+\s+= "([A-Za-z]+)"`), "operations.md", 15,
		},
		"events": {
			"events that are no reasons of conditions", "internal", regexp.MustCompile(`(?s)EventType(?:Warning|Normal),\s*"([A-Za-z]+)"`), "operations.md", 4,
		},
		"annotations": {
			"an annotation that nobody finds is not there", "internal", regexp.MustCompile(`= "(pod\.elotl\.co/[a-z-]+)"`), "configuration.md", 7,
		},
		"flags": {
			"kip run --help has no room for consequences", "internal/kip", regexp.MustCompile(`f\.StringVar\(&[a-zA-Z.]+, "([a-z-]+)"`), "configuration.md", 10,
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			page := read(t, tc.page)
			names := declared(t, filepath.Join(root, tc.in), tc.name)
			if len(names) < tc.atLeast {
				t.Fatalf("only %d were found in %s: %v", len(names), tc.in, names)
			}
			for _, n := range names {
				if !strings.Contains(page, "`"+n+"`") && !strings.Contains(page, "`--"+n+"`") {
					t.Errorf("docs/%s does not explain `%s`: %s", tc.page, n, tc.reason)
				}
			}
		})
	}
}

// declared returns what the expression's group matches in the code, tests left
// out.
func declared(t *testing.T, dir string, name *regexp.Regexp) []string {
	t.Helper()
	var names []string
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() || filepath.Ext(path) != ".go" || strings.HasSuffix(path, "_test.go") {
			return err
		}
		code, err := os.ReadFile(path)
		for _, m := range name.FindAllSubmatch(code, -1) {
			names = append(names, string(m[1]))
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

var (
	link    = regexp.MustCompile(`\]\(([^)\s]+)\)`)
	heading = regexp.MustCompile(`(?m)^#+ (.+)$`)
	// dropped is what a heading loses on its way to an anchor.
	dropped = regexp.MustCompile(`[^a-z0-9 _-]`)
)

// Links between the pages lead somewhere, sections included.
func TestLinks(t *testing.T) {
	pages, err := filepath.Glob("*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, pattern := range []string{"adr/*.md", "../*.md"} {
		more, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, more...)
	}
	for _, page := range pages {
		for _, m := range link.FindAllStringSubmatch(read(t, page), -1) {
			target, section, _ := strings.Cut(m[1], "#")
			if strings.Contains(target, "://") {
				continue
			}
			path := page
			if target != "" {
				path = filepath.Join(filepath.Dir(page), target)
			}
			if _, err := os.Stat(path); err != nil {
				t.Errorf("%s links to %s, which is not there", page, m[1])
				continue
			}
			if section != "" && !slices.Contains(anchors(read(t, path)), section) {
				t.Errorf("%s links to %s, which has no such section", page, m[1])
			}
		}
	}
}

// anchors are the sections of a page as a link names them.
func anchors(page string) []string {
	var all []string
	for _, m := range heading.FindAllStringSubmatch(page, -1) {
		a := dropped.ReplaceAllString(strings.ToLower(m[1]), "")
		all = append(all, strings.ReplaceAll(a, " ", "-"))
	}
	return all
}

func read(t *testing.T, page string) string {
	t.Helper()
	data, err := os.ReadFile(page)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}
