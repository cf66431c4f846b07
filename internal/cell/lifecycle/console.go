package lifecycle

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"time"
	"unicode"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

const (
	// consoleTimeout bounds what a console may cost a worker. Kip can do without.
	consoleTimeout = 5 * time.Second
	// consoleLength is how much of a console is told, in bytes: an event has room
	// for a kilobyte.
	consoleLength = 700
)

// console is a clause with the last words of an instance that never enrolled, ""
// if there are none or Kip may not ask for them.
func (r *Reconciler) console(ctx context.Context, s *scope) string {
	reader, ok := r.cfg.Cloud.(cloudprovider.ConsoleReader)
	if !ok {
		return ""
	}
	ctx, cancel := context.WithTimeout(ctx, consoleTimeout)
	defer cancel()
	text, err := reader.Console(ctx, s.cell.Status.InstanceID)
	if err != nil {
		s.log.Info("the console of an instance that did not boot cannot be read", "instance", s.cell.Status.InstanceID, "err", err)
		return ""
	}
	if words := lastWords(text); words != "" {
		return "; its console ends with: " + words
	}
	return "; its console is empty"
}

// control are sequences by which programs colour a terminal, move about on it
// and name its window.
var control = regexp.MustCompile("\x1b(?:\\[[0-?]*[ -/]*[@-~]|\\][^\x07\x1b]*(?:\x07|\x1b\\\\)?|[ -/]*[0-~])")

// lastWords are the last lines of a console, in one, without what only terminals
// have a use for, and thieves of them.
func lastWords(console string) string {
	const separator = " | "
	words := ""
	lines := strings.FieldsFunc(control.ReplaceAllString(console, ""), func(r rune) bool { return r == '\n' || r == '\r' })
	for _, line := range slices.Backward(lines) {
		line = strings.TrimSpace(strings.Map(printable, line))
		switch {
		case line == "":
			continue
		case words == "":
			words = line
		default:
			words = line + separator + words
		}
		if cut := len(words) - consoleLength; cut > 0 {
			return "…" + strings.ToValidUTF8(words[cut:], "")
		}
	}
	return words
}

func printable(r rune) rune {
	switch {
	case r == '\t':
		return ' '
	case r == unicode.ReplacementChar, !unicode.IsPrint(r):
		return -1
	}
	return r
}
