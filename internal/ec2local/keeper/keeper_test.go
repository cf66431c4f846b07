package keeper

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

func TestConsole(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	k, err := New(t.TempDir(), 0, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(k.Close)
	if _, err := k.Console("i-1"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("an unknown machine: %v", err)
	}
	if err := k.Prepare(machine.Spec{ID: "i-1"}); err != nil {
		t.Fatal(err)
	}
	path := k.ConsolePath("i-1")
	init, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer init.Close()
	say := func(text string) {
		if _, err := init.WriteString(text); err != nil {
			t.Fatal(err)
		}
	}
	say("short\n")
	if err := trimConsole(path, consoleLimit); err != nil {
		t.Fatal(err)
	}
	if got, err := k.Console("i-1"); err != nil || string(got) != "short\n" {
		t.Errorf("got %q, %v", got, err)
	}

	say(strings.Repeat("x", consoleLimit))
	say("end")
	got, err := k.Console("i-1")
	if err != nil || len(got) != machine.MaxConsole || !bytes.HasSuffix(got, []byte("xend")) {
		t.Errorf("a long console: %d bytes, %v", len(got), err)
	}
	if err := trimConsole(path, consoleLimit); err != nil {
		t.Fatal(err)
	}
	if info, err := os.Stat(path); err != nil || info.Size() != machine.MaxConsole {
		t.Errorf("after the cut it has %d bytes, %v", info.Size(), err)
	}
	say(" and on")
	if got, err := k.Console("i-1"); err != nil || !bytes.HasSuffix(got, []byte("xend and on")) {
		t.Errorf("after the cut: …%q, %v", got[max(0, len(got)-20):], err)
	}
	if err := trimConsole(k.ConsolePath("i-2"), consoleLimit); err != nil {
		t.Errorf("cutting a console that is gone: %v", err)
	}
}

// TestOpenProcess looks for processes by what was written down about them.
func TestOpenProcess(t *testing.T) {
	self, err := identify(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	other, rebooted, none := self, self, self
	other.StartTime++
	rebooted.Boot = "another"
	none.PID = 1 << 22 // more than any kernel has
	cases := map[string]struct {
		reason string
		who    identity
		found  bool
	}{
		"Same":     {"It still runs.", self, true},
		"Reused":   {"The ID is someone else's now.", other, false},
		"Rebooted": {"So it is after a restart of the host, even at the same time since boot.", rebooted, false},
		"Gone":     {"Nobody has the ID.", none, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p, err := openProcess("i-1", tc.who)
			if tc.found && err != nil || !tc.found && !errors.Is(err, fs.ErrNotExist) {
				t.Errorf("%s got %v", tc.reason, err)
			}
			if p != nil {
				p.release()
			}
		})
	}
}
