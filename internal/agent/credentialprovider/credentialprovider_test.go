package credentialprovider

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/elotl/kip/v2/internal/agent/kipsocket"
)

const question = `{"kind":"CredentialProviderRequest","image":"a.example.com/web"}`

// kip is the gateway connection.
type kip func(*http.Request) (*http.Response, error)

func (k kip) RoundTrip(r *http.Request) (*http.Response, error) { return k(r) }

func answer(code int, body string) (*http.Response, error) {
	return &http.Response{StatusCode: code, Header: http.Header{}, Body: io.NopCloser(strings.NewReader(body))}, nil
}

// serve runs the agent's side for as long as the test and returns its socket.
func serve(t *testing.T, gateway kip) string {
	t.Helper()
	socket := filepath.Join(t.TempDir(), "run", "plugin.sock")
	l, err := kipsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, gateway, slog.New(slog.DiscardHandler)) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return socket
}

func TestQuestionReachesKip(t *testing.T) {
	socket := serve(t, func(r *http.Request) (*http.Response, error) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return nil, err
		}
		if r.Method != http.MethodPost || r.URL.Path != "/kip/v1/registry-credentials" ||
			r.Header.Get("Content-Type") != "application/json" || string(body) != question {
			return answer(http.StatusTeapot, "not what the kubelet asked")
		}
		return answer(http.StatusOK, `{"auth":{}}`)
	})
	for range 2 { // the kubelet runs the plugin for each registry anew
		var out bytes.Buffer
		if err := Run(t.Context(), socket, strings.NewReader(question), &out); err != nil {
			t.Fatal(err)
		}
		if out.String() != `{"auth":{}}` {
			t.Errorf("the kubelet reads %q", out.String())
		}
	}
}

func TestNoCredentials(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		kip    kip
		want   string
	}{
		"Refused": {"Kip's sentence must reach the kubelet's log", func(*http.Request) (*http.Response, error) {
			return answer(http.StatusForbidden, `{"message":"the pod names no such registry"}`)
		}, "the pod names no such registry"},
		"KipIsAway": {"so must the reason why it cannot be asked", func(*http.Request) (*http.Response, error) {
			return nil, errors.New("no connection")
		}, "no connection"},
		"BrokenOff": {"half of an answer is none", func(*http.Request) (*http.Response, error) {
			return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(io.MultiReader(strings.NewReader("{"), broken{}))}, nil
		}, "broke off"},
	} {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			err := Run(t.Context(), serve(t, tc.kip), strings.NewReader(question), &out)
			if err == nil || !strings.Contains(err.Error(), tc.want) || out.Len() > 0 {
				t.Errorf("%s: error %v, output %q", tc.reason, err, out.String())
			}
		})
	}
	var out bytes.Buffer
	if err := Run(t.Context(), filepath.Join(t.TempDir(), "none"), strings.NewReader(question), &out); err == nil || out.Len() > 0 {
		t.Errorf("without an agent: error %v, output %q", err, out.String())
	}
}

type broken struct{}

func (broken) Read([]byte) (int, error) { return 0, errors.New("reset") }

// Only root of the machine may ask: a pod runs as somebody else, or sees other
// files.
func TestSocketIsRootsAlone(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "run")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "plugin.sock")
	for range 2 { // the second agent finds the first one's socket
		l, err := kipsocket.Listen(socket)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = l.Close() })
		for path, want := range map[string]os.FileMode{dir: 0o700, socket: 0o600} {
			info, err := os.Stat(path)
			if err != nil || info.Mode().Perm() != want {
				t.Errorf("%s has mode %v, %v; want %v", path, info.Mode().Perm(), err, want)
			}
		}
	}
}

// The agent's end is not held up by a question that Kip does not answer.
func TestEndWhileKipIsAsked(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "plugin.sock")
	l, err := kipsocket.Listen(socket)
	if err != nil {
		t.Fatal(err)
	}
	asked := make(chan struct{})
	gateway := kip(func(r *http.Request) (*http.Response, error) {
		close(asked)
		<-r.Context().Done()
		return nil, r.Context().Err()
	})
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	served, ran := make(chan error, 1), make(chan error, 1)
	go func() { served <- Serve(ctx, l, gateway, slog.New(slog.DiscardHandler)) }()
	go func() { ran <- Run(t.Context(), socket, strings.NewReader(question), io.Discard) }()
	<-asked
	cancel()
	if err := <-served; err != nil {
		t.Error(err)
	}
	if err := <-ran; err == nil {
		t.Error("the plugin had an answer")
	}
}
