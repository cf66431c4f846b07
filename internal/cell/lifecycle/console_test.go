package lifecycle

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/cloudprovider/cloudprovidertest"
)

// TestConsoleOfACellThatDoesNotBoot: the event has the end of it, and nothing
// else changes if Kip may not ask.
func TestConsoleOfACellThatDoesNotBoot(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		before func(*world)
		want   string
	}{
		"hangs":  {"the last words are the best clue", func(w *world) { w.cloud.ConsoleText = "booting\r\n\x1b[31mno init found\x1b[0m\n" }, "; its console ends with: booting | no init found"},
		"silent": {"that it says nothing is a clue too", func(*world) {}, "; its console is empty"},
		"denied": {"the right is optional", func(w *world) {
			w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Console, Err: refusal(cloudprovider.Denied)})
		}, ""},
		"no word": {"a cloud that does not answer is no reason to wait", func(w *world) { w.cloud.Script(cloudprovidertest.Fault{Method: cloudprovidertest.Console}) }, ""},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			tc.before(w)
			w.add()
			w.must()
			w.until("loss", func() bool { return w.cell().Status.Phase == v1beta1.CellTerminating })
			w.want(v1beta1.CellTerminating, v1beta1.ReasonInstanceGone)
			if strings.Contains(w.message(), "console") {
				t.Errorf("the condition is for the state, not for logs: %q", w.message())
			}
			var said []string
			for _, e := range w.told() {
				if strings.Contains(e, v1beta1.ReasonInstanceGone) {
					said = append(said, e)
				}
			}
			if len(said) != 1 || !strings.HasSuffix(said[0], "is being terminated"+tc.want) {
				t.Errorf("%s: %q", tc.reason, said)
			}
		})
	}
}

// TestNoConsoleOfACellThatRan: what its pod wrote is for its pod's log.
func TestNoConsoleOfACellThatRan(t *testing.T) {
	w := newWorld(t)
	w.runs()
	w.cloud.Kill(w.cell().Status.InstanceID, "Client.UserInitiatedShutdown")
	w.until("loss", func() bool { return w.reason() == v1beta1.ReasonInstanceGone })
	if n := w.cloud.Calls(cloudprovidertest.Console); n != 0 {
		t.Errorf("asked %d times", n)
	}
}

func TestLastWords(t *testing.T) {
	for name, tc := range map[string]struct{ reason, console, want string }{
		"empty":     {"nothing is nothing", "\r\n \x00\n", ""},
		"lines":     {"one line for an event", "a\r\nb\n\n  c  \n", "a | b | c"},
		"colours":   {"of no use outside of a terminal", "\x1b[1;31mred\x1b[0m \x1b(Bplain\x1b]0;title\x07!", "red plain!"},
		"unended":   {"a title that is cut off", "before \x1b]0;title", "before"},
		"control":   {"a bell, a backspace, a null", "a\a\bb\x00\tc", "ab c"},
		"no text":   {"bytes that are no characters", "a\xff\xfeb", "ab"},
		"direction": {"what turns text around hides text", "a\u202eb", "ab"},
	} {
		t.Run(name, func(t *testing.T) {
			if got := lastWords(tc.console); got != tc.want {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
	for name, console := range map[string]string{
		"many lines": strings.Repeat("a line of a console\n", 5000),
		"one line":   strings.Repeat("ü€", 40000),
	} {
		got := lastWords(console)
		if len(got) > consoleLength+len("…") || !utf8.ValidString(got) || len(got) < consoleLength-len("€") {
			t.Errorf("%s: %d bytes: %q", name, len(got), got)
		}
	}
}

func FuzzLastWords(f *testing.F) {
	f.Add("\x1b[1mkernel panic\x1b[0m\r\n")
	f.Fuzz(func(t *testing.T, console string) {
		got := lastWords(console)
		if len(got) > consoleLength+len("…") || !utf8.ValidString(got) || strings.ContainsAny(got, "\x1b\n\r\x00\t") {
			t.Errorf("%q became %q", console, got)
		}
	})
}
