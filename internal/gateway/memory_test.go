package gateway_test

import (
	"bufio"
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/rest"

	"github.com/elotl/kip/v2/internal/agent/watches"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// agentsVariable makes this program the cells of BenchmarkIdleCells.
const agentsVariable = "KIP_GATEWAY_BENCHMARK_AGENTS"

// manyCells is as many as make a figure for each that no longer changes.
const manyCells = 300

func cellOf(i int) string { return fmt.Sprintf("cell-%04d", i) }

// cellWatches are what a cell's kubelet and kube-proxy watch.
var cellWatches = []string{
	"/api/v1/pods?fieldSelector=spec.nodeName%3D" + node,
	"/api/v1/nodes?fieldSelector=metadata.name%3D" + node,
	"/api/v1/services",
	"/apis/node.k8s.io/v1/runtimeclasses",
	"/apis/storage.k8s.io/v1/csidrivers",
	"/api/v1/nodes?fieldSelector=metadata.name%3D" + node,
	"/api/v1/services?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name",
	"/apis/discovery.k8s.io/v1/endpointslices?labelSelector=%21service.kubernetes.io%2Fservice-proxy-name",
	"/apis/networking.k8s.io/v1/servicecidrs",
	"/api/v1/namespaces/" + ns + "/configmaps?fieldSelector=metadata.name%3Dkube-root-ca.crt",
}

// fleet is what the cells' process is told.
type fleet struct {
	CA, CAKey []byte
	Stream    bool // all watches of a cell are on one
}

// BenchmarkIdleCells measures what Kip keeps for each cell that is connected,
// whose ten watches wait: tunnel, gateway, and the watch that the API server
// answers. The cells are another process.
//
//	go test ./internal/gateway -run '^$' -bench IdleCells -benchtime 1x
func BenchmarkIdleCells(b *testing.B) {
	if os.Getenv(agentsVariable) != "" {
		runAgents(b)
		return
	}
	for name, stream := range map[string]bool{"a request for each watch": false, "one stream": true} {
		b.Run(name, func(b *testing.B) {
			for range b.N {
				measureIdleCells(b, stream)
			}
		})
	}
}

func measureIdleCells(b *testing.B, stream bool) {
	authority, err := pki.Create(time.Now())
	if err != nil {
		b.Fatal(err)
	}
	key, err := authority.KeyPEM()
	if err != nil {
		b.Fatal(err)
	}
	told, err := json.Marshal(fleet{authority.CertificatePEM(), key, stream})
	if err != nil {
		b.Fatal(err)
	}
	cells := exec.Command(os.Args[0], "-test.run=^$", "-test.bench=^BenchmarkIdleCells$", "-test.benchtime=1x")
	cells.Env, cells.Stdin, cells.Stderr = append(os.Environ(), agentsVariable+"=1"), bytes.NewReader(told), os.Stderr
	out, err := cells.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := cells.Start(); err != nil {
		b.Fatal(err)
	}
	defer func() { _ = cells.Process.Kill(); _ = cells.Wait() }()
	lines := bufio.NewScanner(out)
	next := func(word string) string {
		for lines.Scan() {
			if value, ok := strings.CutPrefix(lines.Text(), word+" "); ok {
				return value
			}
		}
		b.Fatalf("the cells ended: %v", lines.Err())
		return ""
	}
	upstream := next("upstream")
	h := newHarness(b, func(c *gateway.Config) {
		c.Upstream = &rest.Config{Host: upstream, TLSClientConfig: rest.TLSClientConfig{Insecure: true}}
	})
	var addresses []string
	for i := range manyCells {
		addresses = append(addresses, next("agent"))
		bound := standbyCell()
		bound.Name, bound.PodUID = cellOf(i), types.UID(cellOf(i))
		h.State.SetCell(bound)
		h.State.SetPod(bound.Name, plainPod(bound.PodUID))
	}
	dialer := tunnel.NewDialer(tunnel.DialerConfig{
		ClientCertificate: pki.NewClient(pki.NewAuthorities(authority), time.Now).Certificate, Roots: authority.Roots(), Logger: slog.New(slog.DiscardHandler),
	})
	before := measured()
	ctx, cancel := context.WithCancel(b.Context())
	var sessions sync.WaitGroup
	defer sessions.Wait()
	defer cancel()
	for i, address := range addresses {
		sessions.Go(func() {
			err := tunnel.ErrUnreachable
			for errors.Is(err, tunnel.ErrUnreachable) { // the machine is busy
				err = dialer.ServeGateway(ctx, address, cellOf(i), h.Gateway.ForCell(cellOf(i)), func(*x509.Certificate) {})
			}
			if ctx.Err() == nil {
				b.Errorf("cell %d: %v", i, err)
			}
		})
	}
	for int(h.count(b, "kip_gateway_watches")) < manyCells*len(cellWatches) {
		if b.Failed() {
			return
		}
		time.Sleep(50 * time.Millisecond)
	}
	after := measured()
	for what, value := range after {
		b.ReportMetric((value-before[what])/manyCells, what+"/cell")
	}
	b.ReportMetric(0, "ns/op")
}

// measured is the process's memory in KiB, and its goroutines.
func measured() map[string]float64 {
	for range 3 { // stacks shrink by half at each
		runtime.GC()
	}
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return map[string]float64{
		"heap-KiB": float64(m.HeapAlloc) / kib, "stack-KiB": float64(m.StackInuse) / kib, "goroutines": float64(runtime.NumGoroutine()),
	}
}

const kib = 1 << 10

func plainPod(uid types.UID) *corev1.Pod {
	source := corev1.VolumeProjection{ConfigMap: &corev1.ConfigMapProjection{LocalObjectReference: corev1.LocalObjectReference{Name: "kube-root-ca.crt"}}}
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: "pod-" + string(uid), UID: uid},
		Spec: corev1.PodSpec{
			NodeName:   node,
			Containers: []corev1.Container{{Name: "c", Image: "image"}},
			Volumes: []corev1.Volume{{Name: "kube-api-access", VolumeSource: corev1.VolumeSource{
				Projected: &corev1.ProjectedVolumeSource{Sources: []corev1.VolumeProjection{source}},
			}}},
		},
	}
}

// runAgents is the other process: the cells, and an API server that answers
// every watch with one event and then nothing. It ends when it is killed.
func runAgents(b *testing.B) {
	var told fleet
	if err := json.NewDecoder(os.Stdin).Decode(&told); err != nil {
		b.Fatal(err)
	}
	authority, err := pki.Load(told.CA, told.CAKey)
	if err != nil {
		b.Fatal(err)
	}
	api := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		fmt.Fprintln(w, `{"type":"ADDED","object":{"kind":"ConfigMap","apiVersion":"v1","metadata":{"name":"kube-root-ca.crt","resourceVersion":"1"}}}`)
		w.(http.Flusher).Flush()
		<-r.Context().Done()
	}))
	api.EnableHTTP2 = true
	api.StartTLS()
	fmt.Println("\nupstream", api.URL)
	for i := range manyCells {
		fmt.Println("\nagent", runAgent(b, authority, cellOf(i), told.Stream))
	}
	select {}
}

// enrolledAlready is the Store of an agent that has its certificate.
type enrolledAlready struct{ identity tunnel.Identity }

func (s enrolledAlready) Load() (tunnel.Identity, error) { return s.identity, nil }
func (s enrolledAlready) Save(tunnel.Identity) error     { return nil }

func runAgent(b *testing.B, authority *pki.Authority, name string, stream bool) (address string) {
	key, err := pki.NewKey()
	if err != nil {
		b.Fatal(err)
	}
	certificate, err := authority.SignCell(key.Public(), name, time.Now())
	if err != nil {
		b.Fatal(err)
	}
	quiet := slog.New(slog.DiscardHandler)
	server, err := tunnel.NewServer(tunnel.ServerConfig{
		Cell: name, CACertificates: string(authority.CertificatePEM()), API: http.NotFoundHandler(), Logger: quiet,
		Store: enrolledAlready{tunnel.Identity{Key: key, CertificatePEM: certificate}},
	})
	if err != nil {
		b.Fatal(err)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	go func() { _ = server.Serve(b.Context(), listener) }()
	way := server.Gateway()
	if stream {
		way = watches.New(way, quiet)
	}
	for _, path := range cellWatches {
		go watchForEver(b, way, path)
	}
	return listener.Addr().String()
}

func watchForEver(b *testing.B, way http.RoundTripper, path string) {
	target, err := url.Parse("https://kip" + path)
	if err != nil {
		b.Error(err)
		return
	}
	query := target.Query()
	for key, value := range map[string]string{
		"watch": "true", "allowWatchBookmarks": "true", "sendInitialEvents": "true", "resourceVersionMatch": "NotOlderThan", "timeoutSeconds": "3600",
	} {
		query.Set(key, value)
	}
	target.RawQuery = query.Encode()
	r, err := http.NewRequestWithContext(b.Context(), http.MethodGet, target.String(), http.NoBody)
	if err != nil {
		b.Error(err)
		return
	}
	resp, err := way.RoundTrip(r)
	if err != nil {
		b.Error(err)
		return
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		text, _ := io.ReadAll(resp.Body)
		fmt.Fprintln(os.Stderr, resp.Status, string(text))
		return
	}
	_, _ = io.Copy(io.Discard, resp.Body)
}
