package machine

import (
	"encoding/binary"
	"io"
	"os"
	"path/filepath"
	"strings"
)

// How the kernel tells of keys (linux/input-event-codes.h).
const (
	eventSize = 24 // two words of time, type, code and value
	typeKey   = 1
	keyPower  = 116
)

// AwaitPowerButton returns true when the machine's power button is pressed: so a cloud asks an instance to end before
// it ends it. It returns false if there is none, as in a container cell. Where another program is PID 1, the button is
// that program's.
func AwaitPowerButton() bool { return awaitPowerButton("/sys/class/input", "/dev/input") }

func awaitPowerButton(class, devices string) bool {
	names, _ := filepath.Glob(filepath.Join(class, "event*/device/name"))
	for _, path := range names {
		name, err := os.ReadFile(path)
		if err != nil || strings.TrimSpace(string(name)) != "Power Button" {
			continue
		}
		event := filepath.Base(filepath.Dir(filepath.Dir(path)))
		f, err := os.Open(filepath.Join(devices, event))
		if err != nil {
			continue
		}
		pressed := readPress(f)
		f.Close()
		if pressed {
			return true
		}
	}
	return false
}

// readPress reads events until one says that the button went down.
func readPress(events io.Reader) bool {
	buffer := make([]byte, eventSize)
	for {
		if _, err := io.ReadFull(events, buffer); err != nil {
			return false
		}
		kind, code := binary.NativeEndian.Uint16(buffer[16:]), binary.NativeEndian.Uint16(buffer[18:])
		if value := binary.NativeEndian.Uint32(buffer[20:]); kind == typeKey && code == keyPower && value == 1 {
			return true
		}
	}
}
