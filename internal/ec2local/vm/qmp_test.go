package vm

import (
	"bufio"
	"net"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

// monitor is a QEMU that greets, and answers each line with the next of its lines.
func monitor(t *testing.T, greeting string, answers ...string) (socket string, asked func() []string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "qmp")
	l, err := net.Listen("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	var lines []string
	done := make(chan struct{})
	go func() {
		defer close(done)
		conn, err := l.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte(greeting))
		in := bufio.NewScanner(conn)
		for _, a := range answers {
			if !in.Scan() {
				return
			}
			lines = append(lines, in.Text())
			_, _ = conn.Write([]byte(a))
		}
	}()
	t.Cleanup(func() { l.Close() })
	return socket, func() []string { <-done; return lines }
}

func TestPressPowerButton(t *testing.T) {
	const greeting = `{"QMP": {"version": {}, "capabilities": []}}`
	cases := map[string]struct {
		reason, greeting string
		answers          []string
		want             string // part of the error; empty for none
	}{
		"Pressed": {"Events may come before an answer.", greeting,
			[]string{`{"return": {}}`, `{"event": "POWERDOWN", "timestamp": {}}` + "\r\n" + `{"return": {}}`}, ""},
		"Refused":  {"QEMU's own words are told.", greeting, []string{`{"return": {}}`, `{"error": {"class": "GenericError", "desc": "not now"}}`}, "not now"},
		"Stranger": {"Another program has the socket.", `{"hello": 1}`, nil, "does not greet"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			socket, asked := monitor(t, tc.greeting, tc.answers...)
			err := pressPowerButton(t.Context(), socket)
			if tc.want == "" && err != nil || tc.want != "" && (err == nil || !strings.Contains(err.Error(), tc.want)) {
				t.Errorf("%s got %v, want %q", tc.reason, err, tc.want)
			}
			if tc.answers == nil {
				return
			}
			if diff := cmp.Diff([]string{`{"execute":"qmp_capabilities"}`, `{"execute":"system_powerdown"}`}, asked()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
	if err := pressPowerButton(t.Context(), filepath.Join(t.TempDir(), "none")); err == nil {
		t.Error("the button of no machine was pressed")
	}
}
