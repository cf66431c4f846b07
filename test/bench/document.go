package main

import (
	"bytes"
	"fmt"
	"strings"
	"unicode/utf8"
)

// document is a report in Markdown.
type document struct{ bytes.Buffer }

// table writes a table whose columns line up in plain text too. All columns
// but the first are aligned to the right when numbers says so.
func (d *document) table(head []string, rows [][]string) {
	width := make([]int, len(head))
	for _, row := range append([][]string{head}, rows...) {
		for i, cell := range row {
			width[i] = max(width[i], utf8.RuneCountInString(cell), 3)
		}
	}
	line := func(row []string) {
		var b strings.Builder
		for i, cell := range row {
			pad := strings.Repeat(" ", width[i]-utf8.RuneCountInString(cell))
			if i == 0 {
				fmt.Fprintf(&b, "| %s%s ", cell, pad)
			} else {
				fmt.Fprintf(&b, "| %s%s ", pad, cell)
			}
		}
		d.WriteString(b.String() + "|\n")
	}
	line(head)
	rule := make([]string, len(head))
	for i := range head {
		rule[i] = strings.Repeat("-", width[i])
		if i > 0 {
			rule[i] = rule[i][1:] + ":"
		}
	}
	line(rule)
	for _, row := range rows {
		line(row)
	}
	d.WriteString("\n")
}

func (d *document) printf(format string, args ...any) { fmt.Fprintf(d, format, args...) }
