package kubeletapi

import (
	"bufio"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/podlogs"
)

const podUID = types.UID("11111111-2222-3333-4444-555555555555")

// fakeAuth knows users by their bearer token and lets each do what its name
// says: "get" may get nodes/proxy, "create" may create it too, "metrics" may
// get nodes/metrics and so on.
type fakeAuth struct{ nodeutil.NodeRequestAttr }

func (fakeAuth) AuthenticateRequest(r *http.Request) (*authenticator.Response, bool, error) {
	token := strings.TrimPrefix(r.Header.Get("Authorization"), "Bearer ")
	if token == "" {
		return nil, false, nil
	}
	return &authenticator.Response{User: &user.DefaultInfo{Name: token}}, true, nil
}

func (fakeAuth) Authorize(_ context.Context, a authorizer.Attributes) (authorizer.Decision, string, error) {
	name, verb := a.GetUser().GetName(), a.GetVerb()
	if a.GetResource() == "nodes" && a.GetName() == "kip-provider-0" && a.GetSubresource() == name && verb == "get" {
		return authorizer.DecisionAllow, "", nil
	}
	if a.GetResource() != "nodes" || a.GetName() != "kip-provider-0" || a.GetSubresource() != "proxy" {
		return authorizer.DecisionDeny, "", nil
	}
	if name == "create" && (verb == "get" || verb == "create") || name == verb {
		return authorizer.DecisionAllow, "", nil
	}
	if name == "broken" {
		return authorizer.DecisionNoOpinion, "", errors.New("the API server is away")
	}
	return authorizer.DecisionDeny, "", nil
}

// fakePods is the provider.
type fakePods map[string]*corev1.Pod

func (p fakePods) CellOfPod(_ context.Context, namespace, name string) (*corev1.Pod, string) {
	pod := p[namespace+"/"+name]
	if pod == nil {
		return nil, ""
	}
	return pod, pod.Annotations["cell"]
}

func (p fakePods) Pods(context.Context) (*corev1.PodList, error) {
	list := &corev1.PodList{TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "PodList"}}
	for _, pod := range p {
		list.Items = append(list.Items, *pod)
	}
	return list, nil
}

func newPod(name, cell string) *corev1.Pod {
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: name, UID: podUID, Annotations: map[string]string{"cell": cell}},
		Spec: corev1.PodSpec{
			InitContainers: []corev1.Container{{Name: "init"}}, Containers: []corev1.Container{{Name: "app"}},
			EphemeralContainers: []corev1.EphemeralContainer{{EphemeralContainerCommon: corev1.EphemeralContainerCommon{Name: "debug"}}},
		},
	}
}

// harness is the API with a cell behind it.
type harness struct {
	*Server
	URL     string
	clock   *clocktesting.FakePassiveClock
	pods    fakePods
	metrics fakeMetrics

	mu      sync.Mutex
	cell    http.HandlerFunc // the cell's agent
	asked   []string         // by the agent
	offline error
}

func newHarness(t *testing.T) *harness {
	t.Helper()
	logs, err := podlogs.NewStore(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	h := &harness{clock: clocktesting.NewFakePassiveClock(time.Date(2026, 1, 2, 3, 4, 15, 0, time.UTC)), pods: fakePods{"shop/web": newPod("web", "cell-1")}}
	agent := httptest.NewTLSServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h.mu.Lock()
		h.asked = append(h.asked, r.Method+" "+r.RequestURI)
		cell := h.cell
		h.mu.Unlock()
		if cell != nil {
			cell(w, r)
			return
		}
		fmt.Fprintln(w, "from the cell")
	}))
	t.Cleanup(agent.Close)
	transport := &http.Transport{
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "tcp", agent.Listener.Addr().String())
		},
		DisableCompression: true,
	}
	t.Cleanup(transport.CloseIdleConnections)
	h.Server = New(Config{
		Pods: h.pods, Metrics: &h.metrics, Process: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "kip_cells 1") }),
		Transport: func(cell string) (http.RoundTripper, error) {
			h.mu.Lock()
			defer h.mu.Unlock()
			if cell != "cell-1" {
				return nil, errors.New("no such cell")
			}
			return transport, h.offline
		},
		Logs: logs, Auth: kubeletAuth{fakeAuth{nodeutil.NodeRequestAttr{NodeName: "kip-provider-0"}}},
		Clock: h.clock, Log: slog.New(slog.DiscardHandler),
	})
	server := httptest.NewServer(h.Handler())
	t.Cleanup(server.Close)
	h.URL = server.URL
	return h
}

// do sends a request as the user, whose path is sent as it is.
func (h *harness) do(t *testing.T, method, path, as string, header ...string) (int, string) {
	t.Helper()
	resp := h.open(t, method, path, as, header...)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return resp.StatusCode, string(body)
}

func (h *harness) open(t *testing.T, method, path, as string, header ...string) *http.Response {
	t.Helper()
	u, err := url.Parse(h.URL)
	if err != nil {
		t.Fatal(err)
	}
	path, query, _ := strings.Cut(path, "?")
	u.RawQuery = query
	if u.Path, err = url.PathUnescape(path); err != nil {
		t.Fatal(err)
	}
	u.RawPath = path
	req, err := http.NewRequestWithContext(t.Context(), method, u.String(), http.NoBody)
	if err != nil {
		t.Fatal(err)
	}
	req.URL = u
	if as != "" {
		req.Header.Set("Authorization", "Bearer "+as)
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Add(header[i], header[i+1])
	}
	resp, err := http.DefaultTransport.RoundTrip(req)
	if err != nil {
		t.Fatal(err)
	}
	return resp
}

func (h *harness) requests() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.asked)
}

func (h *harness) keep(t *testing.T, container, text string, previous bool) podlogs.Source {
	t.Helper()
	return podlogs.Source{Container: container, Previous: previous, Open: func(context.Context) (io.ReadCloser, error) {
		return io.NopCloser(strings.NewReader(text)), nil
	}}
}

func TestWhoMayDoWhat(t *testing.T) {
	h := newHarness(t)
	const logs, exec = "/containerLogs/shop/web/app", "/exec/shop/web/app?command=id"
	for name, tc := range map[string]struct {
		reason, method, path, as string
		want                     int
	}{
		"nobody":             {"no credential", "GET", logs, "", 401},
		"nobody, exec":       {"no credential", "POST", exec, "", 401},
		"nobody, pods":       {"no credential", "GET", "/pods", "", 401},
		"nobody, unknown":    {"not even what there is", "GET", "/nothing", "", 401},
		"stranger":           {"no right", "GET", logs, "stranger", 403},
		"stranger, pods":     {"no right", "GET", "/pods", "stranger", 403},
		"logs":               {"get is enough", "GET", logs, "get", 200},
		"exec with get":      {"running something is more than reading", "POST", exec, "get", 403},
		"WebSocket with get": {"a GET that runs something", "GET", exec, "get", 403},
		"attach with get":    {"the same", "GET", "/attach/shop/web/app", "get", 403},
		"forward with get":   {"the same", "GET", "/portForward/shop/web", "get", 403},
		"run with get":       {"the same", "POST", "/run/shop/web/app?cmd=id", "get", 403},
		"encoded":            {"the same in other letters", "GET", "/%65xec/shop/web/app", "get", 403},
		"HEAD":               {"the same without an answer", "HEAD", exec, "get", 403},
		"exec":               {"create", "POST", exec, "create", 200},
		"WebSocket":          {"create", "GET", exec, "create", 200},
		"unsure":             {"no answer is no yes", "GET", logs, "broken", 500},
		"healthz":            {"everybody's", "GET", "/healthz", "", 200},
		"unknown path":       {"no such thing", "GET", "/configz", "create", 404},
		"wrong method":       {"no such thing", "DELETE", logs, "create", 403},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(h.requests())
			code, body := h.do(t, tc.method, tc.path, tc.as)
			if code != tc.want {
				t.Errorf("%s: %d %s, want %d", tc.reason, code, body, tc.want)
			}
			if reached := len(h.requests()) > before; reached != (code == 200 && tc.path != "/healthz") {
				t.Errorf("%s: the cell was asked: %t", tc.reason, reached)
			}
		})
	}
}

func TestStrictAuthAsksForCreate(t *testing.T) {
	a := kubeletAuth{fakeAuth{nodeutil.NodeRequestAttr{NodeName: "n"}}}
	for path, want := range map[string]string{
		"/exec/a/b/c": "create", "/attach/a/b/c": "create", "/portForward/a/b": "create", "/run/a/b/c": "create", "/exec": "create",
		"/containerLogs/a/b/c": "get", "/pods": "get", "/": "get", "/execute/a": "get", "/metrics/exec": "get",
	} {
		r := httptest.NewRequest(http.MethodGet, path, nil)
		if got := a.GetRequestAttributes(&user.DefaultInfo{}, r); got.GetVerb() != want || got.GetName() != "n" || got.GetResource() != "nodes" {
			t.Errorf("GET %s asks to %s %s", path, got.GetVerb(), got.GetResource())
		}
	}
}

// TestPathsLeadNowhereElse: all a caller names in the cell is a container of
// the pod, whatever it writes in its place.
func TestPathsLeadNowhereElse(t *testing.T) {
	h := newHarness(t)
	h.pods["shop/other"] = newPod("other", "cell-1")
	for name, path := range map[string]string{
		"slashes":           "/containerLogs/shop/web/..%2f..%2f..%2fexec%2fshop%2fweb%2fapp",
		"slashes to agent":  "/containerLogs/shop/web/..%2f..%2f..%2f..%2fkip%2fv1%2fstatus",
		"backslashes":       "/containerLogs/shop/web/..%5c..%5cexec",
		"dots":              "/containerLogs/shop/web/%2e%2e",
		"dot":               "/containerLogs/shop/web/%2e",
		"twice encoded":     "/containerLogs/shop/web/%252e%252e%252fexec",
		"query in the name": "/containerLogs/shop/web/app%3fprevious=true",
		"fragment":          "/containerLogs/shop/web/app%23",
		"no container":      "/containerLogs/shop/web/none",
		"empty":             "/containerLogs/shop/web/%20",
		"null":              "/containerLogs/shop/web/app%00",
		"newline":           "/containerLogs/shop/web/app%0d%0aHost:%20x",
		"pod with slashes":  "/containerLogs/shop/web%2f..%2fother/app",
		"namespace":         "/containerLogs/..%2fshop/web/app",
		"exec":              "/exec/shop/web/..%2f..%2frun",
		"exec with UID":     "/exec/shop/web/" + string(podUID) + "/..%2f..%2frun",
		"another UID":       "/exec/shop/web/x/app",
		"UID with slashes":  "/exec/shop/web/" + string(podUID) + "%2f../app",
		"forward":           "/portForward/shop/web/..%2f..%2fexec",
		"another node":      "/containerLogs/shop/elsewhere/app",
		"another namespace": "/containerLogs/default/web/app",
	} {
		t.Run(name, func(t *testing.T) {
			code, body := h.do(t, "GET", path, "create")
			if code != http.StatusNotFound {
				t.Errorf("%d %s", code, body)
			}
			if got := h.requests(); len(got) != 0 {
				t.Fatalf("the cell was asked: %q", got)
			}
		})
	}
	for name, tc := range map[string][2]string{
		"container":           {"/containerLogs/shop/web/app?follow=true&tailLines=3", "/kubelet/containerLogs/shop/web/app?follow=true&tailLines=3"},
		"init container":      {"/containerLogs/shop/web/init", "/kubelet/containerLogs/shop/web/init"},
		"ephemeral container": {"/attach/shop/web/debug", "/kubelet/attach/shop/web/debug"},
		"UID":                 {"/exec/shop/web/" + string(podUID) + "/app?command=a&command=b%2Fc", "/kubelet/exec/shop/web/" + string(podUID) + "/app?command=a&command=b%2Fc"},
		"forward":             {"/portForward/shop/web?port=80", "/kubelet/portForward/shop/web?port=80"},
	} {
		h.do(t, "GET", tc[0], "create")
		if got := h.requests(); len(got) == 0 || got[len(got)-1] != "GET "+tc[1] {
			t.Errorf("%s: the cell was asked %q, want %s", name, got, tc[1])
		}
	}
}

func TestCellLearnsNoCredential(t *testing.T) {
	h := newHarness(t)
	var got http.Header
	h.cell = func(w http.ResponseWriter, r *http.Request) { got = r.Header.Clone() }
	h.do(t, "POST", "/exec/shop/web/app", "create",
		"Cookie", "session=secret", "Impersonate-User", "admin", "Impersonate-Extra-Scopes", "x", "X-Remote-User", "admin", "Proxy-Authorization", "secret",
		"Sec-WebSocket-Protocol", "v5.channel.k8s.io, base64url.bearer.authorization.k8s.io.c2VjcmV0", "X-Stream-Protocol-Version", "v4.channel.k8s.io", "User-Agent", "kubectl")
	for name := range got {
		if strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") || strings.Contains(name, "Authorization") || name == "Cookie" {
			t.Errorf("the cell was told %s: %s", name, got[name])
		}
	}
	if p := got.Values("Sec-WebSocket-Protocol"); len(p) != 1 || p[0] != "v5.channel.k8s.io" {
		t.Errorf("protocols %q", p)
	}
	if got.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" || got.Get("User-Agent") != "kubectl" {
		t.Errorf("the kubelet needs the rest: %v", got)
	}
}

func TestUpgradePassesThrough(t *testing.T) {
	h := newHarness(t)
	h.cell = func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Upgrade") != "SPDY/3.1" || !strings.EqualFold(r.Header.Get("Connection"), "upgrade") {
			http.Error(w, "no upgrade", http.StatusBadRequest)
			return
		}
		conn, rw, err := w.(http.Hijacker).Hijack()
		if err != nil {
			t.Error(err)
			return
		}
		defer conn.Close()
		fmt.Fprint(rw, "HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: "+r.Header.Get("X-Stream-Protocol-Version")+"\r\n\r\n")
		rw.Flush()
		line, _ := rw.ReadString('\n')
		fmt.Fprint(rw, "echo "+line)
		rw.Flush()
	}
	conn, err := (&net.Dialer{}).DialContext(t.Context(), "tcp", strings.TrimPrefix(h.URL, "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	fmt.Fprint(conn, "POST /exec/shop/web/app?command=cat HTTP/1.1\r\nHost: kip\r\nAuthorization: Bearer create\r\nConnection: Upgrade\r\nUpgrade: SPDY/3.1\r\nX-Stream-Protocol-Version: v4.channel.k8s.io\r\n\r\n")
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusSwitchingProtocols || resp.Header.Get("X-Stream-Protocol-Version") != "v4.channel.k8s.io" {
		t.Fatalf("%s %v", resp.Status, resp.Header)
	}
	fmt.Fprint(conn, "hello\n")
	if line, err := r.ReadString('\n'); line != "echo hello\n" {
		t.Errorf("%q, %v", line, err)
	}
	if _, err := r.ReadByte(); !errors.Is(err, io.EOF) {
		t.Errorf("the cell's end must be the caller's: %v", err)
	}
}

func TestWhatThePodWaitsForIsSaid(t *testing.T) {
	h := newHarness(t)
	waiting := newPod("waiting", "")
	waiting.Status.Conditions = []corev1.PodCondition{{Type: v1beta1.PodConditionCellReady, Message: "no t3.nano is left in us-west-2a"}}
	h.pods["shop/waiting"] = waiting
	h.pods["shop/new"] = newPod("new", "")
	h.offline = errors.New("its agent does not listen yet")
	for path, want := range map[string]string{
		"/containerLogs/shop/waiting/app": "no t3.nano is left in us-west-2a",
		"/exec/shop/new/app":              "none was made yet",
		"/containerLogs/shop/web/app":     "its agent does not listen yet",
	} {
		if code, body := h.do(t, "GET", path, "create"); code != http.StatusServiceUnavailable || !strings.Contains(body, want) {
			t.Errorf("%s: %d %s", path, code, body)
		}
	}
}

func TestCellThatFails(t *testing.T) {
	h := newHarness(t)
	for name, tc := range map[string]struct {
		reason string
		cell   http.HandlerFunc
		code   int
		want   string
	}{
		"breaks off": {"no answer", func(http.ResponseWriter, *http.Request) { panic(http.ErrAbortHandler) }, 502, "cell cell-1"},
		"kubelet away": {"the agent says so", func(w http.ResponseWriter, _ *http.Request) {
			http.Error(w, "the kubelet cannot be reached", http.StatusBadGateway)
		}, 502, "the kubelet cannot be reached"},
		"redirects": {"the API server must not follow a cell", func(w http.ResponseWriter, r *http.Request) {
			http.Redirect(w, r, "https://169.254.169.254/", http.StatusTemporaryRedirect)
		}, 502, "307"},
		"kubelet's 400": {"the kubelet's own word", func(w http.ResponseWriter, _ *http.Request) { http.Error(w, "waiting to start", 400) }, 400, "waiting to start"},
	} {
		h.cell = tc.cell
		resp := h.open(t, "GET", "/containerLogs/shop/web/app", "get")
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if resp.StatusCode != tc.code || !strings.Contains(string(body), tc.want) || resp.Header.Get("Location") != "" {
			t.Errorf("%s (%s): %d %s", name, tc.reason, resp.StatusCode, body)
		}
	}
}

const keptText = "2026-01-02T03:04:05Z one\n2026-01-02T03:04:10Z two\n2026-01-02T03:04:12Z three\n"

func TestLogsOfAnEndedPod(t *testing.T) {
	h := newHarness(t)
	if err := h.Logs.Keep(t.Context(), podUID, []podlogs.Source{h.keep(t, "app", keptText, false), h.keep(t, "app", "2026-01-02T03:04:00Z before\n", true)}); err != nil {
		t.Fatal(err)
	}
	h.pods["shop/web"].Annotations["cell"] = "" // long gone
	for name, tc := range map[string]struct {
		query string
		code  int
		want  string
	}{
		"all":           {"app", 200, "one\ntwo\nthree\n"},
		"follow":        {"app?follow=true", 200, "one\ntwo\nthree\n"},
		"tail":          {"app?tailLines=1", 200, "three\n"},
		"seconds":       {"app?sinceSeconds=5", 200, "two\nthree\n"},
		"time":          {"app?sinceTime=2026-01-02T03:04:12Z", 200, "three\n"},
		"stamps":        {"app?tailLines=1&timestamps=true", 200, "2026-01-02T03:04:12Z three\n"},
		"limit":         {"app?limitBytes=5", 200, "one\nt"},
		"previous":      {"app?previous=true", 200, "before\n"},
		"bad option":    {"app?tailLines=many", 400, "tailLines"},
		"never ran":     {"init", 400, `container "init" in pod "web" never ran`},
		"no run before": {"init?previous=true", 400, "previous terminated container"},
		"unknown":       {"none", 404, "not found"},
	} {
		t.Run(name, func(t *testing.T) {
			code, body := h.do(t, "GET", "/containerLogs/shop/web/"+tc.query, "get")
			if code != tc.code || !strings.Contains(body, tc.want) || code == 200 && body != tc.want {
				t.Errorf("%d %q, want %d %q", code, body, tc.code, tc.want)
			}
		})
	}
	if got := h.requests(); len(got) != 0 {
		t.Errorf("the cell was asked %q", got)
	}
}

// TestCellGoesWhileItIsAsked: its logs were kept before it was ended.
func TestCellGoesWhileItIsAsked(t *testing.T) {
	for name, gone := range map[string]func(*harness, func()){
		"not connected": func(h *harness, keep func()) { keepFirst(h, keep) },
		"connection lost": func(h *harness, keep func()) {
			h.cell = func(http.ResponseWriter, *http.Request) { keep(); panic(http.ErrAbortHandler) }
		},
		"kubelet is ended": func(h *harness, keep func()) {
			h.cell = func(w http.ResponseWriter, _ *http.Request) { keep(); http.Error(w, "away", http.StatusBadGateway) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := newHarness(t)
			gone(h, func() {
				if err := h.Logs.Keep(context.Background(), podUID, []podlogs.Source{h.keep(t, "app", keptText, false)}); err != nil {
					t.Error(err)
				}
			})
			if code, body := h.do(t, "GET", "/containerLogs/shop/web/app?follow=true", "get"); code != 200 || body != "one\ntwo\nthree\n" {
				t.Errorf("%d %q", code, body)
			}
		})
	}
}

// keepFirst has the logs be kept just when the connection is asked for.
func keepFirst(h *harness, keep func()) {
	transport := h.Transport
	h.Transport = func(cell string) (http.RoundTripper, error) {
		keep()
		rt, _ := transport(cell)
		return rt, errors.New("the cell is not connected")
	}
}

func TestFollowersAreCounted(t *testing.T) {
	for path, counts := range map[string]bool{
		"/containerLogs/shop/web/app?follow=true": true,
		"/containerLogs/shop/web/app":             true,
		"/attach/shop/web/app":                    true,
		"/exec/shop/web/app":                      false,
		"/portForward/shop/web":                   false,
	} {
		t.Run(path, func(t *testing.T) {
			h := newHarness(t)
			end := make(chan struct{})
			h.cell = func(w http.ResponseWriter, _ *http.Request) {
				fmt.Fprintln(w, "first")
				w.(http.Flusher).Flush()
				<-end
				fmt.Fprintln(w, "last")
			}
			if h.Following("cell-1") {
				t.Error("nobody follows")
			}
			resp := h.open(t, "GET", path, "create")
			defer resp.Body.Close()
			r := bufio.NewReader(resp.Body)
			if line, err := r.ReadString('\n'); line != "first\n" {
				t.Fatalf("%q, %v", line, err)
			}
			if got := h.Following("cell-1"); got != counts || h.Following("cell-2") {
				t.Errorf("followed: %t", got)
			}
			close(end)
			if line, err := r.ReadString('\n'); line != "last\n" {
				t.Errorf("%q, %v", line, err)
			}
			_, _ = io.Copy(io.Discard, r)
			for h.Following("cell-1") { // the handler is about to return
				time.Sleep(time.Millisecond)
			}
			if n := len(h.followers.byCell); n != 0 {
				t.Errorf("%d counts are left", n)
			}
		})
	}
}

func TestRunningPods(t *testing.T) {
	running := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Running: &corev1.ContainerStateRunning{}}}}}
	waiting := corev1.PodStatus{ContainerStatuses: []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{}}}}}
	now := metav1.Now()
	cases := map[string]struct {
		reason string
		pod    corev1.Pod
		want   bool
	}{
		"Running": {"what it is asked for", corev1.Pod{Status: running}, true},
		"Waiting": {"its image is pulled, or its secret is not there", corev1.Pod{Status: waiting}, false},
		"Unknown": {"it has no instance yet", corev1.Pod{}, false},
		"Deleted": {"it is being ended", corev1.Pod{ObjectMeta: metav1.ObjectMeta{DeletionTimestamp: &now}, Status: running}, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.pod.Name = "it"
			h := newHarness(t)
			h.pods["shop/it"] = &tc.pod
			code, body := h.do(t, "GET", "/runningpods/", "get")
			if code != 200 || !strings.Contains(body, `"kind":"PodList"`) || strings.Contains(body, `"name":"it"`) != tc.want {
				t.Errorf("%s: %d %s", tc.reason, code, body)
			}
		})
	}
}

func TestServe(t *testing.T) {
	h := newHarness(t)
	certified := httptest.NewUnstartedServer(nil)
	certified.StartTLS()
	certificate := certified.TLS.Certificates[0]
	certified.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error)
	go func() { done <- h.Serve(ctx, l, &tls.Config{Certificates: []tls.Certificate{certificate}}) }()
	conn, err := tls.Dial("tcp", l.Addr().String(), &tls.Config{InsecureSkipVerify: true, NextProtos: []string{"h2", "http/1.1"}})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if p := conn.ConnectionState().NegotiatedProtocol; p != "http/1.1" {
		t.Errorf("%q cannot be upgraded", p)
	}
	fmt.Fprint(conn, "GET /containerLogs/shop/web/app HTTP/1.1\r\nHost: kip\r\n\r\n")
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil || resp.StatusCode != 401 {
		t.Errorf("%v, %v", resp, err)
	}
	cancel()
	if err := <-done; err != nil {
		t.Errorf("an end that was asked for is no error: %v", err)
	}
	if err := h.Serve(t.Context(), l, &tls.Config{Certificates: []tls.Certificate{certificate}}); err == nil {
		t.Error("a closed listener must be told")
	}
}
