package deviceplugin

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Config is what a Plugin needs.
type Config struct {
	// Root is "/", but in tests. Dir is the kubelet's directory of device
	// plugins.
	Root, Dir string
	// Want is how many GPUs the cell's pod asks for. Without any there is
	// nothing to run.
	Want int
	// Every is how often the kubelet's socket and the machine's devices are
	// looked at. A driver may be loaded after the agent has started.
	Every time.Duration
	// Patience is how long GPUs are waited for. After that the kubelet is told
	// of what there is, so that it refuses the pod and says why.
	Patience time.Duration
	Logger   *slog.Logger
}

// Plugin offers GPUs to the kubelet.
type Plugin struct {
	cfg   Config
	known chan struct{}
	once  sync.Once
}

// New makes a Plugin.
func New(cfg Config) *Plugin {
	p := &Plugin{cfg: cfg, known: make(chan struct{})}
	if cfg.Want == 0 {
		p.once.Do(func() { close(p.known) })
	}
	return p
}

// Known is closed when the kubelet has been told of all GPUs that the pod wants,
// or of what there is after some time. A kubelet that
// gets a pod before that starts it without: to it, a resource that no plugin
// has offered is somebody else's business.
func (p *Plugin) Known() <-chan struct{} { return p.known }

const (
	kubeletSocket = "kubelet.sock"
	pluginSocket  = "kip-gpu.sock"

	// stopGrace is what answers have to end that are being given.
	stopGrace = time.Second
)

// Run serves until ctx ends. A kubelet that starts empties its directory and
// forgets its plugins, so each time that its socket is another one the plugin
// begins anew.
func (p *Plugin) Run(ctx context.Context) {
	var served, trouble string
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	for ctx.Err() == nil {
		if now := p.kubelet(); now != "" && now != served {
			err := p.serve(ctx, now)
			if err == nil {
				served, trouble = now, ""
				continue
			}
			// A kubelet that is starting, or was killed, refuses for a while.
			if err.Error() != trouble && ctx.Err() == nil {
				trouble = err.Error()
				p.cfg.Logger.Warn("GPUs are not offered to the kubelet yet", "error", err)
			}
		}
		select {
		case <-ctx.Done():
		case <-tick.C:
		}
	}
}

// kubelet tells the kubelet's socket from those of its earlier lives; "" if
// there is none.
func (p *Plugin) kubelet() string {
	info, err := os.Stat(filepath.Join(p.cfg.Dir, kubeletSocket))
	if err != nil {
		return ""
	}
	inode := uint64(0)
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		inode = s.Ino
	}
	return fmt.Sprint(inode, info.ModTime().UnixNano())
}

// serve registers with the kubelet whose socket was seen, and serves until that
// is another one. The error is that of the beginning.
func (p *Plugin) serve(ctx context.Context, kubelet string) error {
	path := filepath.Join(p.cfg.Dir, pluginSocket)
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", path)
	if err != nil {
		return fmt.Errorf("listening: %w", err)
	}
	ctx, cancel := context.WithCancel(ctx)
	server := &http.Server{
		Handler: p.handler(), Protocols: protocols(), ReadHeaderTimeout: 10 * time.Second,
		ErrorLog:    slog.NewLogLogger(p.cfg.Logger.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context { return ctx },
	}
	var serving sync.WaitGroup
	serving.Go(func() { _ = server.Serve(listener) }) // ends with Shutdown
	defer func() {
		cancel() // ends the kubelet's watch
		grace, end := context.WithTimeout(context.Background(), stopGrace)
		defer end()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
		serving.Wait()
	}()
	if err := p.register(ctx); err != nil {
		return fmt.Errorf("registering: %w", err)
	}
	p.cfg.Logger.Info("GPUs are offered to the kubelet", "resource", Resource)
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	for p.kubelet() == kubelet {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
	}
	return nil
}

// register tells the kubelet of the plugin.
func (p *Plugin) register(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	transport := &http.Transport{
		Protocols: protocols(),
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", filepath.Join(p.cfg.Dir, kubeletSocket))
		},
	}
	defer transport.CloseIdleConnections()
	body := strings.NewReader(string(frame(registerRequest(pluginSocket, Resource))))
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "http://kubelet/v1beta1.Registration/Register", body)
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", contentType)
	req.Header.Set("TE", "trailers")
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if _, err := io.Copy(io.Discard, io.LimitReader(resp.Body, maxMessage)); err != nil {
		return err
	}
	return outcome(resp)
}

func (p *Plugin) handler() http.Handler {
	const service = "POST /v1beta1.DevicePlugin/"
	mux := http.NewServeMux()
	// None of the options.
	mux.HandleFunc(service+"GetDevicePluginOptions", func(w http.ResponseWriter, _ *http.Request) { answer(w, nil) })
	mux.HandleFunc(service+"ListAndWatch", p.listAndWatch)
	mux.HandleFunc(service+"Allocate", allocate)
	mux.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) { refuse(w, codeUnimplemented, "no such method") })
	return mux
}

// listAndWatch tells the kubelet of the GPUs, as they appear, until there are as
// many as the pod wants.
func (p *Plugin) listAndWatch(w http.ResponseWriter, r *http.Request) {
	begin(w)
	deadline := time.Now().Add(p.cfg.Patience)
	tick := time.NewTicker(p.cfg.Every)
	defer tick.Stop()
	for told := -1; told < p.cfg.Want; {
		n, err := find(p.cfg.Root)
		if n != told {
			if err := list(w, n); err != nil {
				return // the kubelet is gone
			}
			told = n
			continue
		}
		if time.Now().After(deadline) {
			p.cfg.Logger.Error("the GPUs that the pod asks for are not there", "want", p.cfg.Want, "found", n, "error", err)
			break
		}
		select {
		case <-r.Context().Done():
			return
		case <-tick.C:
		}
	}
	p.once.Do(func() { close(p.known) })
	<-r.Context().Done()
}

// list sends a list of n GPUs.
func list(w http.ResponseWriter, n int) error {
	ids := make([]string, n)
	for i := range ids {
		ids[i] = strconv.Itoa(i)
	}
	if _, err := w.Write(frame(listAndWatchResponse(ids))); err != nil {
		return err
	}
	return http.NewResponseController(w).Flush()
}

// allocate names what containers get.
func allocate(w http.ResponseWriter, r *http.Request) {
	message, err := readMessage(r.Body)
	if err != nil {
		refuse(w, codeInvalidArgument, err.Error())
		return
	}
	containers, err := parseAllocateRequest(message)
	if err != nil {
		refuse(w, codeInvalidArgument, err.Error())
		return
	}
	for _, ids := range containers {
		for i, id := range ids {
			ids[i] = Resource + "=" + id
		}
	}
	answer(w, allocateResponse(containers))
}
