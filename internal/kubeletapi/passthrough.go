package kubeletapi

import (
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/http/httputil"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// target is the pod that a request is about, and its cell.
type target struct {
	pod *corev1.Pod
	// cell is empty while the pod has none.
	cell string
}

func (t target) name() string { return t.pod.Namespace + "/" + t.pod.Name }

// find checks every part of the path and returns what it is about. If it
// returns false, it has answered: anything but the names of a pod of this node
// and of one of its containers would be a path of its own in the cell.
func (s *Server) find(w http.ResponseWriter, r *http.Request) (target, bool) {
	namespace, name := r.PathValue("namespace"), r.PathValue("pod")
	pod, cell := s.Config.Pods.CellOfPod(r.Context(), namespace, name)
	uid, container := r.PathValue("uid"), r.PathValue("container")
	switch {
	case pod == nil:
		http.Error(w, fmt.Sprintf("pod %q is not on this node", namespace+"/"+name), http.StatusNotFound)
	case uid != "" && uid != string(pod.UID):
		http.Error(w, fmt.Sprintf("pod %s/%s has UID %s now", namespace, name, pod.UID), http.StatusNotFound)
	case container != "" && !hasContainer(&pod.Spec, container):
		http.Error(w, fmt.Sprintf("container %q not found in pod %q", container, name), http.StatusNotFound)
	default:
		return target{pod, cell}, true
	}
	return target{}, false
}

func hasContainer(spec *corev1.PodSpec, name string) bool {
	for i := range spec.Containers {
		if spec.Containers[i].Name == name {
			return true
		}
	}
	for i := range spec.InitContainers {
		if spec.InitContainers[i].Name == name {
			return true
		}
	}
	for i := range spec.EphemeralContainers {
		if spec.EphemeralContainers[i].Name == name {
			return true
		}
	}
	return false
}

// stream serves exec, attach, port-forward and run.
func (s *Server) stream(w http.ResponseWriter, r *http.Request) {
	t, ok := s.find(w, r)
	if !ok {
		return
	}
	if strings.HasPrefix(r.URL.Path, "/attach/") {
		defer s.followers.add(t.cell)()
	}
	s.passThrough(w, r, t, func(code int, message string) { http.Error(w, message, code) })
}

// passThrough hands the request to the kubelet in the cell. What comes to an
// end before the kubelet has answered goes to refuse instead.
func (s *Server) passThrough(w http.ResponseWriter, r *http.Request, t target, refuse func(code int, message string)) {
	if t.cell == "" {
		refuse(http.StatusServiceUnavailable, fmt.Sprintf("pod %s has no cell: %s", t.name(), waitsFor(t.pod)))
		return
	}
	transport, err := s.Transport(t.cell)
	if err != nil {
		refuse(http.StatusServiceUnavailable, fmt.Sprintf("the cell of pod %s cannot be reached: %v", t.name(), err))
		return
	}
	proxy := &httputil.ReverseProxy{
		Rewrite: func(pr *httputil.ProxyRequest) {
			pr.Out.URL.Scheme, pr.Out.URL.Host, pr.Out.Host = "https", t.cell, t.cell
			pr.Out.URL.Path = "/kubelet" + pr.In.URL.Path
			pr.Out.URL.RawPath = ""
			removeCredentials(pr.Out.Header)
		},
		Transport:      transport,
		ModifyResponse: kubeletAnswered,
		FlushInterval:  -1,
		ErrorLog:       slog.NewLogLogger(s.Log.Handler(), slog.LevelDebug),
		ErrorHandler: func(_ http.ResponseWriter, r *http.Request, err error) {
			if r.Context().Err() != nil {
				return // the caller left
			}
			s.Log.Warn("passing a request to a cell", "pod", t.name(), "cell", t.cell, "path", r.URL.Path, "err", err)
			refuse(http.StatusBadGateway, fmt.Sprintf("cell %s: %v", t.cell, err))
		},
	}
	proxy.ServeHTTP(w, r)
}

// kubeletAnswered returns an error for what is no answer of a kubelet: the
// agent's word that there is none, or a redirection. Kubelets send nobody
// elsewhere, and the API server shall not follow a cell.
func kubeletAnswered(resp *http.Response) error {
	if resp.StatusCode != http.StatusBadGateway && (resp.StatusCode < 300 || resp.StatusCode > 399) {
		return nil
	}
	text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
	return fmt.Errorf("it answers %s: %s", resp.Status, strings.TrimSpace(string(text)))
}

// removeCredentials takes away all by which a caller may have said who it is,
// or on whose behalf it speaks: that is settled, and no cell must learn it.
func removeCredentials(h http.Header) {
	h.Del("Authorization")
	h.Del("Cookie")
	for name := range h {
		if strings.HasPrefix(name, "Impersonate-") || strings.HasPrefix(name, "X-Remote-") {
			h.Del(name)
		}
	}
	// Browsers can put a token nowhere else when they open a WebSocket.
	const protocols, token = "Sec-Websocket-Protocol", "base64url.bearer.authorization.k8s.io."
	values := h.Values(protocols)
	h.Del(protocols)
	for _, value := range values {
		var kept []string
		for p := range strings.SplitSeq(value, ",") {
			if p = strings.TrimSpace(p); !strings.HasPrefix(p, token) {
				kept = append(kept, p)
			}
		}
		if len(kept) > 0 {
			h.Add(protocols, strings.Join(kept, ", "))
		}
	}
}

// waitsFor is the message of the pod's CellReady condition.
func waitsFor(pod *corev1.Pod) string {
	for _, c := range pod.Status.Conditions {
		if c.Type == v1beta1.PodConditionCellReady && c.Message != "" {
			return c.Message
		}
	}
	return "none was made yet"
}
