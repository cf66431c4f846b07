package machine

import (
	"encoding/binary"
	"os"
	"path/filepath"
	"testing"
)

func TestAwaitPowerButton(t *testing.T) {
	event := func(kind, code uint16, value uint32) []byte {
		e := make([]byte, 16, eventSize) // the time
		e = binary.NativeEndian.AppendUint16(e, kind)
		e = binary.NativeEndian.AppendUint16(e, code)
		return binary.NativeEndian.AppendUint32(e, value)
	}
	synchronization, press := event(0, 0, 0), event(typeKey, keyPower, 1)
	cases := map[string]struct {
		reason string
		name   string
		events []byte
		want   bool
	}{
		"Pressed":  {"The button goes down after something else.", "Power Button\n", append(synchronization, press...), true},
		"Released": {"It went up only: that was before.", "Power Button\n", event(typeKey, keyPower, 0), false},
		"Other":    {"Another key of the same device.", "Power Button\n", event(typeKey, 30, 1), false},
		"Keyboard": {"Keyboards are for people.", "AT Keyboard\n", press, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			class, devices := t.TempDir(), t.TempDir()
			if err := os.MkdirAll(filepath.Join(class, "event3/device"), 0o755); err != nil {
				t.Fatal(err)
			}
			for path, content := range map[string][]byte{
				filepath.Join(class, "event3/device/name"): []byte(tc.name), filepath.Join(devices, "event3"): tc.events,
			} {
				if err := os.WriteFile(path, content, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			if got := awaitPowerButton(class, devices); got != tc.want {
				t.Errorf("%s got %t, want %t", tc.reason, got, tc.want)
			}
		})
	}
	if awaitPowerButton(t.TempDir(), t.TempDir()) {
		t.Error("a machine without a button says that it was pressed")
	}
}
