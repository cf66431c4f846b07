package install

import (
	"fmt"
	"strings"
)

// Block is a fenced block of shell commands of a page.
type Block struct {
	// Line is where it begins.
	Line int
	// Kind is what follows "bash" on the fence. Blocks without a kind are run in
	// their order by whoever follows the page; those of kind "values" hold what
	// the reader replaces by their own, "lookup" what an EKS cluster is asked,
	// and others are ways that need not be taken.
	Kind     string
	Commands string
}

// Blocks returns the shell commands of a page, in order.
func Blocks(page string) ([]Block, error) {
	var all []Block
	var open *Block
	fenced := false
	for n, line := range strings.Split(page, "\n") {
		switch {
		case !fenced && strings.HasPrefix(line, "```"):
			fenced = true
			if language, kind, _ := strings.Cut(strings.TrimPrefix(line, "```"), " "); language == "bash" {
				open = &Block{Line: n + 1, Kind: kind}
			}
		case line == "```":
			if open != nil {
				all = append(all, *open)
			}
			fenced, open = false, nil
		case open != nil:
			open.Commands += line + "\n"
		}
	}
	if fenced {
		return nil, fmt.Errorf("the last block is not closed")
	}
	return all, nil
}
