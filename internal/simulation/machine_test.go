package simulation

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/enrolment"
	"github.com/elotl/kip/v2/internal/gateway"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// machine is an instance from within: an agent, a kubelet and one pod's program.
// Only the loop touches it.
type machine struct {
	world    *world
	id       string
	number   int
	cell     string
	cellUID  types.UID
	addr     string
	token    string // of its user data
	launched time.Time

	// on: nothing has switched it off. listening: the agent does.
	on, listening bool
	// partitioned: no packet gets through.
	partitioned bool
	// wedged: the kubelet has stopped to do anything.
	wedged bool
	// excused: something other than Kip has harmed it.
	excused bool
	event   *cloudprovider.ScheduledEvent
	notice  *gateway.Interruption

	certificate *x509.Certificate
	conn        *conn
	kubelet     kubelet
}

// conn is a Kip's connection to the agent, by which requests come.
type conn struct {
	kip    *kip
	h      http.Handler
	ctx    context.Context
	hangUp context.CancelFunc
}

// kubelet has one pod, or none.
type kubelet struct {
	// shown is the pod as the gateway showed it last; known: it was.
	shown *corev1.Pod
	known bool

	pod      *corev1.Pod // the one that it took on
	running  bool
	runs     int // of the program
	since    time.Time
	endsAt   time.Time
	backOff  time.Time
	exitCode int32
	exited   time.Time
	termed   time.Time // SIGTERM
	killAt   time.Time
	phase    corev1.PodPhase // what it says
	removed  bool            // it has told that nothing is left

	asking bool // a request is on its way
	next   time.Time
	lease  time.Time
}

// launched is called when the cloud has launched an instance, or found it.
func (w *world) launched(i *cloudprovider.Instance, req cloudprovider.LaunchRequest) {
	if w.machines[i.ID] != nil {
		return
	}
	m := &machine{world: w, id: i.ID, number: len(w.machines), cell: i.CellName, cellUID: i.CellUID, addr: i.PrimaryIP, token: string(req.UserData), on: true, launched: time.Now()}
	w.machines[i.ID] = m
	w.check.launched(m)
	boots := w.cloud.PendingFor + w.between(2*time.Second, 20*time.Second)
	if w.chance(w.plan.bootHang) && !w.calm {
		w.tell("%s of %s will not boot", m.id, m.cell)
		return
	}
	w.after(boots, m.id+" boots", func() {
		if m.on {
			w.tell("%s of %s listens", m.id, m.cell)
			m.listening = true
			w.wakeDialers()
		}
	})
}

func (w *world) sortedMachines() []*machine {
	var all []*machine
	for _, id := range slices.Sorted(maps.Keys(w.machines)) {
		all = append(all, w.machines[id])
	}
	return all
}

// lookAtMachines switches off those whose instance ends, some time before it has
// ended.
func (w *world) lookAtMachines() {
	for _, i := range w.cloud.All() {
		m := w.machines[i.ID]
		if m == nil || !m.on || i.State.Alive() {
			continue
		}
		m.on = false
		left := w.between(0, w.cloud.ShuttingDownFor-time.Second)
		if i.State == cloudprovider.StateStopped {
			left = 0
		}
		w.after(left, m.id+" is off", m.off)
	}
}

func (m *machine) off() {
	m.listening = false
	m.cut()
	if m.kubelet.running {
		m.world.tell("%s: the program of %s dies with its instance", m.id, m.kubelet.pod.Name)
		m.kubelet.running = false
		m.world.check.ended(m, false)
	}
}

// cut breaks the connection.
func (m *machine) cut() {
	if m.conn != nil {
		m.conn.hangUp()
		m.conn = nil
	}
	m.kubelet.known, m.kubelet.asking = false, false
}

// reachable: packets get from a Kip to the agent and back.
func (m *machine) reachable() bool { return m.listening && !m.partitioned }

func (w *world) machineAt(addr string) *machine {
	host, _, _ := net.SplitHostPort(addr)
	for _, m := range w.machines {
		if m.addr == host && m.on {
			return m
		}
	}
	return nil
}

// dialer is one Kip's network to its cells.
type dialer struct{ kip *kip }

// waiting dials until somebody listens.
type waiting struct {
	kip  *kip
	addr string
	ch   chan struct{}
}

func (w *world) wakeDialers() {
	w.dialers = slices.DeleteFunc(w.dialers, func(d *waiting) bool {
		m := w.machineAt(d.addr)
		if m == nil || !m.reachable() {
			return d.kip.isDead()
		}
		close(d.ch)
		return true
	})
}

func (d dialer) Await(ctx context.Context, addr string) error {
	w := d.kip.world
	wait := &waiting{d.kip, addr, make(chan struct{})}
	w.at(time.Now(), nil, fmt.Sprintf("kip%d dials %s", d.kip.number, addr), func() bool {
		w.dialers = append(w.dialers, wait)
		w.wakeDialers()
		return false
	})
	select {
	case <-wait.ch:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// reach is a call to a cell's agent.
func reach[T any](ctx context.Context, d dialer, what, addr, cell string, do func(*machine) (T, error)) (T, error) {
	return ask(ctx, d.kip, what+" "+cell, toCell, func() (none T, _ error) {
		m := d.kip.world.machineAt(addr)
		switch {
		case m == nil || !m.reachable():
			return none, fmt.Errorf("%s: %w", addr, tunnel.ErrUnreachable)
		case m.cell != cell:
			return none, tunnel.ErrUntrusted
		}
		return do(m)
	})
}

func (d dialer) Enrol(ctx context.Context, addr, cell, token string, sign tunnel.SignFunc) error {
	m, err := reach(ctx, d, "enrols", addr, cell, func(m *machine) (*machine, error) {
		switch {
		case m.certificate != nil:
			return nil, tunnel.ErrAlreadyEnrolled
		case m.token != token:
			return nil, enrolment.ErrProof
		}
		return m, nil
	})
	if err != nil {
		return err
	}
	key := m.key()
	hash, err := pki.KeySHA256(key.Public())
	if err != nil {
		return err
	}
	pem, err := sign(ctx, key.Public(), hash)
	if err != nil {
		return err
	}
	return d.grant(ctx, "certifies", addr, cell, pem)
}

func (d dialer) grant(ctx context.Context, what, addr, cell string, pem []byte) error {
	certificate, err := pki.ParseCertificate(pem)
	if err != nil {
		return err
	}
	_, err = reach(ctx, d, what, addr, cell, func(m *machine) (none struct{}, _ error) {
		m.certificate = certificate
		return none, nil
	})
	return err
}

func (d dialer) Renew(ctx context.Context, addr, cell, keySHA256 string, sign tunnel.SignFunc) error {
	m, err := reach(ctx, d, "renews", addr, cell, func(m *machine) (*machine, error) { return m, nil })
	if err != nil {
		return err
	}
	key := m.key()
	if hash, err := pki.KeySHA256(key.Public()); err != nil || hash != keySHA256 {
		return tunnel.ErrUntrusted
	}
	pem, err := sign(ctx, key.Public(), keySHA256)
	if err != nil {
		return err
	}
	return d.grant(ctx, "renews the certificate of", addr, cell, pem)
}

func (d dialer) ServeGateway(ctx context.Context, addr, cell string, h http.Handler, ready func(*x509.Certificate)) error {
	w := d.kip.world
	type connected struct {
		*conn
		m           *machine
		certificate *x509.Certificate
	}
	c, err := reach(ctx, d, "connects to", addr, cell, func(m *machine) (none connected, _ error) {
		switch {
		case m.certificate == nil:
			return none, tunnel.ErrNotEnrolled
		case time.Now().After(m.certificate.NotAfter):
			return none, tunnel.ErrExpired
		}
		m.cut()
		m.conn = &conn{kip: d.kip, h: h}
		m.conn.ctx, m.conn.hangUp = context.WithCancel(w.t.Context())
		m.kubelet.next = time.Now()
		w.after(0, m.id+" is connected", m.tick)
		return connected{m.conn, m, m.certificate}, nil
	})
	if err != nil {
		return err
	}
	ready(c.certificate)
	select {
	case <-c.ctx.Done():
		return tunnel.ErrLost
	case <-ctx.Done():
		if d.kip.isDead() {
			return ctx.Err()
		}
		w.at(time.Now(), nil, fmt.Sprintf("kip%d hangs up on %s", d.kip.number, cell), func() bool {
			if c.m.conn == c.conn {
				c.m.cut()
			}
			return false
		})
		return ctx.Err()
	}
}

func (d dialer) Transport(addr, cell string) *http.Transport { return &http.Transport{} }

// RoundTrip asks an agent, which has a log of everything.
func (d dialer) RoundTrip(r *http.Request) (*http.Response, error) {
	cell := r.URL.Host
	return ask(r.Context(), d.kip, "asks "+cell+" for "+r.URL.Path, toCell, func() (*http.Response, error) {
		for _, m := range d.kip.world.sortedMachines() {
			if m.cell == cell && m.on && m.reachable() && m.conn != nil {
				return &http.Response{StatusCode: http.StatusOK, Body: io.NopCloser(strings.NewReader("2000-01-01T00:00:00Z hello\n"))}, nil
			}
		}
		return nil, errors.New("the cell is not connected")
	})
}

// tickEvery is how often a kubelet looks at its pod.
const tickEvery = time.Second

// tick is all that a kubelet does.
func (m *machine) tick() {
	k, now := &m.kubelet, time.Now()
	if !m.on && !k.running {
		return
	}
	m.work(now)
	if c := m.conn; c != nil && m.reachable() && m.on {
		if now.Sub(k.lease) >= 10*time.Second && !m.wedged {
			k.lease = now
			c.kip.provider.Heartbeat(m.cell, "")
		}
		if m.notice != nil && !k.asking {
			m.tellNotice(c)
		} else if !k.asking && !m.wedged {
			m.talk(c)
		}
	}
}

// schedule has the machine tick as long as it lives.
func (w *world) tickMachines() {
	for _, m := range w.sortedMachines() {
		m.tick()
	}
}

// work is what goes on in the cell, connected or not.
func (m *machine) work(now time.Time) {
	k, w := &m.kubelet, m.world
	if k.pod == nil {
		return
	}
	if k.running && !k.termed.IsZero() && !now.Before(k.killAt) {
		m.exit(now, 137)
	}
	if k.running && !k.endsAt.IsZero() && !now.Before(k.endsAt) {
		code := k.exitCode
		if !k.termed.IsZero() {
			code = 143
			if k.pod.Annotations[annotationGraceful] != "" {
				code = 0
			}
		}
		m.exit(now, code)
	}
	if k.running || m.wedged || k.phase == corev1.PodSucceeded || k.phase == corev1.PodFailed || !m.on {
		return
	}
	if k.runs > 0 {
		again := k.pod.Spec.RestartPolicy == corev1.RestartPolicyAlways || k.pod.Spec.RestartPolicy == corev1.RestartPolicyOnFailure && k.exitCode != 0
		if !again || !k.termed.IsZero() {
			k.phase = corev1.PodSucceeded
			if k.exitCode != 0 {
				k.phase = corev1.PodFailed
			}
			return
		}
		if now.Before(k.backOff) {
			return
		}
	}
	k.running, k.since, k.phase = true, now, corev1.PodRunning
	k.runs++
	k.exitCode, k.endsAt = 0, time.Time{}
	m.program(now)
	w.tell("%s: the program of %s starts", m.id, k.pod.Name)
	w.check.started(m)
}

func (m *machine) exit(now time.Time, code int32) {
	k := &m.kubelet
	m.world.tell("%s: the program of %s ends with %d", m.id, k.pod.Name, code)
	k.running, k.exitCode, k.exited = false, code, now
	k.backOff = now.Add(time.Duration(min(k.runs, 4)) * 5 * time.Second)
	m.world.check.ended(m, true)
}

// term is SIGTERM.
func (m *machine) term(now time.Time, grace int64) {
	k := &m.kubelet
	if !k.termed.IsZero() {
		return
	}
	k.termed, k.killAt = now, now.Add(time.Duration(grace)*time.Second)
	takes, _ := time.ParseDuration(k.pod.Annotations[annotationTakes])
	if end := now.Add(takes); k.running && (k.endsAt.IsZero() || end.Before(k.endsAt)) {
		k.endsAt = end
	}
}

// talk is what a kubelet says to the API server, one thing at a time.
func (m *machine) talk(c *conn) {
	k, now := &m.kubelet, time.Now()
	if !k.known {
		m.list(c)
		return
	}
	if now.Before(k.next) {
		return
	}
	switch {
	case k.shown == nil:
		if k.running {
			// Its pod has gone.
			m.term(now, 0)
		}
	case k.pod == nil:
		if k.shown.DeletionTimestamp == nil && k.shown.Status.Phase != corev1.PodSucceeded && k.shown.Status.Phase != corev1.PodFailed {
			k.pod, k.phase = k.shown, corev1.PodPending
		} else if k.shown.DeletionTimestamp != nil && !k.removed {
			m.remove(c)
		}
	case k.shown.UID != k.pod.UID:
		m.world.check.violated("%s was shown another pod: %s after %s", m.cell, k.shown.UID, k.pod.UID)
	default:
		if k.shown.DeletionTimestamp != nil {
			grace := int64(30)
			if g := k.shown.DeletionGracePeriodSeconds; g != nil {
				grace = *g
			}
			m.term(now, grace)
			if !k.running && k.phase != corev1.PodFailed {
				k.phase = corev1.PodSucceeded
				if k.exitCode != 0 {
					k.phase = corev1.PodFailed
				}
			}
		}
		if k.shown.Status.Phase != k.phase || restarts(&k.shown.Status) != m.restartCount() || !k.running != waits(&k.shown.Status) {
			m.report(c)
		} else if k.shown.DeletionTimestamp != nil && !k.running && !k.removed {
			m.remove(c)
		}
	}
}

func (m *machine) restartCount() int32 { return int32(max(m.kubelet.runs-1, 0)) }

func restarts(s *corev1.PodStatus) int32 {
	if len(s.ContainerStatuses) == 0 {
		return 0
	}
	return s.ContainerStatuses[0].RestartCount
}

func waits(s *corev1.PodStatus) bool {
	return len(s.ContainerStatuses) == 0 || s.ContainerStatuses[0].State.Running == nil
}

// request sends one, and does something with its answer unless the connection is
// lost before.
func (m *machine) request(c *conn, what, method, path, contentType string, body any, then func(code int, body []byte)) {
	m.kubelet.asking = true
	var reader io.Reader = http.NoBody
	if body != nil {
		data, err := json.Marshal(body)
		if err != nil {
			m.world.t.Fatal(err)
		}
		reader = bytes.NewReader(data)
	}
	r := httptest.NewRequestWithContext(c.ctx, method, path, reader)
	if body != nil {
		r.Header.Set("Content-Type", contentType)
	}
	name := fmt.Sprintf("%s %s", m.cell, what)
	serve := func() {
		a := httptest.NewRecorder()
		c.h.ServeHTTP(a, r)
		m.world.after(0, name+": answer", func() {
			if m.conn != c {
				return
			}
			m.kubelet.asking = false
			m.world.tell("%s: %d", name, a.Code)
			if a.Code >= 300 {
				m.kubelet.next = time.Now().Add(2 * time.Second)
			}
			then(a.Code, a.Body.Bytes())
		})
	}
	m.world.after(0, name, func() { go serve() })
}

// list reads the pod and watches it from there.
func (m *machine) list(c *conn) {
	m.request(c, "lists its pods", http.MethodGet, "/api/v1/pods", "", nil, func(code int, body []byte) {
		if code != http.StatusOK {
			return
		}
		var list corev1.PodList
		if err := json.Unmarshal(body, &list); err != nil {
			m.world.t.Fatal(err)
		}
		m.kubelet.known, m.kubelet.shown = true, nil
		if len(list.Items) > 0 {
			m.kubelet.shown = &list.Items[0]
		}
		m.watch(c, list.ResourceVersion)
	})
}

// watch takes what the gateway streams.
func (m *machine) watch(c *conn, version string) {
	r := httptest.NewRequestWithContext(c.ctx, http.MethodGet, "/api/v1/pods?watch=true&resourceVersion="+version, http.NoBody)
	s := &stream{header: http.Header{}, event: func(kind string, pod *corev1.Pod) {
		m.world.at(time.Now(), nil, m.cell+" is shown its pod", func() bool {
			if m.conn != c {
				return false
			}
			switch kind {
			case "ADDED", "MODIFIED":
				m.kubelet.shown = pod
			case "DELETED":
				m.kubelet.shown = nil
			case "ERROR":
				m.kubelet.known = false
			}
			return false
		})
	}}
	go func() {
		c.h.ServeHTTP(s, r)
		m.world.after(0, m.cell+"'s watch ends", func() {
			if m.conn == c {
				m.kubelet.known = false
			}
		})
	}()
}

// stream reads the answer to a watch.
type stream struct {
	header http.Header
	buffer bytes.Buffer
	event  func(kind string, pod *corev1.Pod)
}

func (s *stream) Header() http.Header { return s.header }
func (s *stream) WriteHeader(int)     {}

func (s *stream) Write(data []byte) (int, error) {
	s.buffer.Write(data)
	for {
		i := bytes.IndexByte(s.buffer.Bytes(), '\n')
		if i < 0 {
			return len(data), nil
		}
		var e struct {
			Type   string
			Object json.RawMessage
		}
		if err := json.Unmarshal(s.buffer.Next(i+1), &e); err != nil {
			return 0, err
		}
		pod := &corev1.Pod{}
		if e.Type != "ERROR" && e.Type != "BOOKMARK" {
			if err := json.Unmarshal(e.Object, pod); err != nil {
				return 0, err
			}
		}
		s.event(e.Type, pod)
	}
}

func (s *stream) Flush() {}

func (m *machine) podPath() string {
	pod := m.kubelet.shown
	return "/api/v1/namespaces/" + pod.Namespace + "/pods/" + pod.Name
}

// report says how the pod is.
func (m *machine) report(c *conn) {
	k := &m.kubelet
	m.request(c, fmt.Sprintf("says %s", k.phase), http.MethodPatch, m.podPath()+"/status", "application/strategic-merge-patch+json",
		map[string]any{"metadata": map[string]any{"uid": k.pod.UID}, "status": m.status()}, func(int, []byte) {})
}

func (m *machine) status() corev1.PodStatus {
	k := &m.kubelet
	ready := corev1.ConditionFalse
	state := corev1.ContainerState{}
	switch {
	case k.running:
		ready = corev1.ConditionTrue
		state.Running = &corev1.ContainerStateRunning{StartedAt: metav1.NewTime(k.since)}
	case k.runs > 0:
		state.Terminated = &corev1.ContainerStateTerminated{ExitCode: k.exitCode, StartedAt: metav1.NewTime(k.since), FinishedAt: metav1.NewTime(k.exited), ContainerID: m.containerID()}
	default:
		state.Waiting = &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}
	}
	s := corev1.PodStatus{Phase: k.phase, Conditions: []corev1.PodCondition{
		{Type: corev1.PodReady, Status: ready}, {Type: corev1.ContainersReady, Status: ready},
	}}
	s.ContainerStatuses = []corev1.ContainerStatus{{Name: "app", State: state, Ready: k.running, RestartCount: m.restartCount()}}
	if k.runs > 0 {
		s.ContainerStatuses[0].ContainerID = m.containerID()
	}
	return s
}

func (m *machine) containerID() string {
	return fmt.Sprintf("containerd://%s-%d", m.id, m.kubelet.runs)
}

// remove says that nothing of the pod is left.
func (m *machine) remove(c *conn) {
	pod := m.kubelet.shown
	m.request(c, "has removed its pod", http.MethodDelete, m.podPath(), "application/json",
		metav1.DeleteOptions{GracePeriodSeconds: new(int64(0)), Preconditions: metav1.NewUIDPreconditions(string(pod.UID))}, func(code int, _ []byte) {
			m.kubelet.removed = code == http.StatusOK
		})
}

// tellNotice is the agent's word that the cloud takes the instance.
func (m *machine) tellNotice(c *conn) {
	m.request(c, "is interrupted", http.MethodPost, "/kip/v1/interruption", "application/json", m.notice, func(code int, _ []byte) {
		if code == http.StatusOK {
			m.notice = nil
		}
	})
}

// keys are those of agents. Making one takes longer than all else that an agent
// does here, and nothing depends on which it is.
var keys = sync.OnceValue(func() (all []*ecdsa.PrivateKey) {
	for range 16 {
		key, err := pki.NewKey()
		if err != nil {
			panic(err)
		}
		all = append(all, key)
	}
	return all
})

func (m *machine) key() *ecdsa.PrivateKey { return keys()[m.number%len(keys())] }
