package simulation

import (
	"context"
	"fmt"
	"regexp"
	"slices"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

var panicked = regexp.MustCompile(`panic`)

// checker knows what must hold. It sees everything as it happens, and not
// through Kip's eyes.
type checker struct {
	*world
	violations []string

	// ran are the pods of which the API server heard that they started.
	ran map[types.UID]bool
	// exits are the codes of the last programs to end by themselves, by pod.
	exits map[types.UID][]int32
	// vain are calls that changed nothing because the caller knew too little.
	vain map[string][]time.Time
	// counted are the Cells whose use was counted.
	counted map[types.UID]bool
}

func newChecker(w *world) *checker {
	return &checker{world: w, ran: map[types.UID]bool{}, exits: map[types.UID][]int32{}, counted: map[types.UID]bool{}, vain: map[string][]time.Time{}}
}

// violated is called by the loop only.
func (c *checker) violated(format string, args ...any) {
	what := fmt.Sprintf(format, args...)
	c.tell("VIOLATION: %s", what)
	if !slices.Contains(c.violations, what) {
		c.violations = append(c.violations, what)
	}
}

// inVain is called for a change that met another. Some do, but who makes the
// same one again and again before it has heard of the other is a burden to the
// API server just when that is slow.
func (c *checker) inVain(name string) {
	if len(c.alive()) > 1 {
		return // they take turns at undoing what the other does
	}
	const many, span = 15, 5 * time.Second
	times := append(c.vain[name], time.Now())
	c.vain[name] = times[max(0, len(times)-many):]
	if len(times) > many && time.Since(times[0]) < span {
		c.violated("%s: in vain, more than %d times in %s", name, many, span)
	}
}

func terminal(p corev1.PodPhase) bool { return p == corev1.PodSucceeded || p == corev1.PodFailed }

// changed is called after every change in the API server.
func (c *checker) changed(k kind, ch change) {
	if k == cells {
		c.cellChanged(ch)
		return
	}
	old, _ := ch.old.(*corev1.Pod)
	now, _ := ch.now.(*corev1.Pod)
	switch {
	case now == nil:
		c.tell("pod %s is gone", old.Name)
		for _, m := range c.sortedMachines() {
			if m.kubelet.running && m.kubelet.pod.UID == old.UID && !c.users.forced[old.UID] {
				c.violated("pod %s was removed while its program runs in %s", old.Name, m.cell)
			}
		}
	case old != nil && old.UID == now.UID:
		if old.Status.Phase != now.Status.Phase {
			c.tell("pod %s is %s %s", now.Name, now.Status.Phase, now.Status.Reason)
		}
		if terminal(old.Status.Phase) && old.Status.Phase != now.Status.Phase {
			c.violated("pod %s was %s and is %s", now.Name, old.Status.Phase, now.Status.Phase)
		}
		if len(now.Status.ContainerStatuses) > 0 && now.Status.ContainerStatuses[0].ContainerID != "" {
			c.ran[now.UID] = true
		}
	}
}

func (c *checker) cellChanged(ch change) {
	old, _ := ch.old.(*v1beta1.Cell)
	now, _ := ch.now.(*v1beta1.Cell)
	switch {
	case now == nil:
		c.tell("cell %s is gone", old.Name)
		for _, i := range c.cloud.All() {
			if i.CellUID == old.UID && i.State != cloudprovider.StateTerminated && !c.several {
				c.violated("cell %s was removed while its instance %s is %s", old.Name, i.ID, i.State)
			}
		}
		if old.Status.Enrolment != nil && !c.counted[old.UID] {
			c.violated("the use of cell %s was not counted", old.Name)
		}
	case old == nil:
		c.tell("cell %s is made", now.Name)
	case old.Status.Phase != now.Status.Phase:
		c.tell("cell %s is %s", now.Name, now.Status.Phase)
	}
}

// launched is called for a new instance.
func (c *checker) launched(m *machine) {
	others := 0
	for _, i := range c.cloud.All() {
		if i.CellUID == m.cellUID && i.State != cloudprovider.StateTerminated {
			others++
		}
	}
	if others > 1 && !c.several {
		c.violated("cell %s has %d instances", m.cell, others)
	}
}

// started is called when a program starts.
func (c *checker) started(m *machine) {
	pod := m.kubelet.pod
	for _, other := range c.sortedMachines() {
		o := other.kubelet
		switch {
		case other == m || !o.running:
		case o.pod.UID == pod.UID:
			c.violated("pod %s runs in %s and in %s", pod.Name, other.cell, m.cell)
		case o.pod.Name == pod.Name && !c.users.forced[o.pod.UID]:
			c.violated("pod %s runs in %s while the pod of its name before it runs in %s", pod.Name, m.cell, other.cell)
		}
	}
	now := c.api.pod(client.ObjectKeyFromObject(pod))
	if now != nil && now.UID == pod.UID && terminal(now.Status.Phase) {
		c.violated("pod %s is %s and runs again in %s", pod.Name, now.Status.Phase, m.cell)
	}
	if m.kubelet.runs == 1 && c.ran[pod.UID] && pod.Spec.RestartPolicy == corev1.RestartPolicyNever {
		c.violated("pod %s, of policy Never, is started once more in %s", pod.Name, m.cell)
	}
}

// ended is called when a program ends, be it with its instance.
func (c *checker) ended(m *machine, byItself bool) {
	uid := m.kubelet.pod.UID
	if byItself {
		c.exits[uid] = append(c.exits[uid], m.kubelet.exitCode)
	}
}

// terminating is called when a Kip has an instance terminated.
func (c *checker) terminating(id string) {
	m := c.machines[id]
	if m == nil {
		c.violated("an instance of somebody else is to be terminated: %s", id)
		return
	}
	if !m.kubelet.running || m.excused || c.users.cellsDeleted[m.cellUID] {
		return
	}
	pod := c.api.pod(client.ObjectKeyFromObject(m.kubelet.pod))
	switch {
	case pod == nil || pod.UID != m.kubelet.pod.UID:
	case pod.DeletionTimestamp == nil && !terminal(pod.Status.Phase):
		c.violated("the instance of pod %s, which runs in %s, is terminated for no reason", pod.Name, m.cell)
	case pod.DeletionTimestamp != nil && time.Now().Before(pod.DeletionTimestamp.Time) && c.plan.clockJumps == 0:
		c.violated("the instance of pod %s, which is being deleted, is terminated within the grace period", pod.Name)
	}
}

// used is what counts the use of cells.
func (c *checker) used(_ context.Context, cell *v1beta1.Cell) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.counted[cell.UID] = true
	return nil
}

// unrest is what must not be any more when nothing has gone wrong for a while.
func (c *checker) unrest() (all []string) {
	w := c.world
	problem := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	for _, o := range w.api.list(pods) {
		c.podAtRest(o.(*corev1.Pod), problem)
	}
	accounted := map[string]bool{}
	routed := map[string]bool{}
	for _, o := range w.api.list(cells) {
		cell := o.(*v1beta1.Cell)
		ref := cell.Spec.Pod
		pod := w.api.pod(client.ObjectKey{Namespace: ref.Namespace, Name: ref.Name})
		switch {
		case cell.DeletionTimestamp != nil:
			problem("cell %s is being deleted for ever: %s, instance %q", cell.Name, cell.Status.Phase, cell.Status.InstanceID)
		case pod == nil || pod.UID != ref.UID:
			problem("cell %s has no pod", cell.Name)
		case terminal(pod.Status.Phase):
			problem("cell %s is there although its pod %s is %s", cell.Name, pod.Name, pod.Status.Phase)
		}
		accounted[cell.Status.InstanceID] = true
		routed[cell.Status.NetworkInterfaceID] = len(cell.Spec.Instance.Routes) > 0
	}
	for _, i := range w.cloud.All() {
		switch {
		case i.ID == w.cloud.theirs:
			if !i.State.Alive() {
				problem("the instance of somebody else is %s", i.State)
			}
		case i.State != cloudprovider.StateTerminated && !accounted[i.ID]:
			problem("instance %s of cell %s is %s and has no Cell", i.ID, i.CellName, i.State)
		}
	}
	for network, to := range w.cloud.Routes() {
		if !routed[to] {
			problem("there is a route of %s to %s, which is no cell's", network, to)
		}
	}
	return all
}

func (c *checker) podAtRest(pod *corev1.Pod, problem func(string, ...any)) {
	codes := c.exits[pod.UID]
	last := int32(-1)
	if len(codes) > 0 {
		last = codes[len(codes)-1]
	}
	var in []*machine
	for _, m := range c.sortedMachines() {
		if m.on && m.kubelet.pod != nil && m.kubelet.pod.UID == pod.UID {
			in = append(in, m)
		}
	}
	switch phase := pod.Status.Phase; {
	case pod.DeletionTimestamp != nil:
		problem("pod %s is being deleted for ever", pod.Name)
	case phase == corev1.PodSucceeded && last != 0:
		problem("pod %s succeeded, and its program ended with %v", pod.Name, codes)
	case phase == corev1.PodFailed && pod.Spec.RestartPolicy == corev1.RestartPolicyAlways:
		problem("pod %s, of policy Always, failed: %s", pod.Name, pod.Status.Reason)
	case phase == corev1.PodFailed && pod.Status.Reason == "" && last <= 0:
		problem("pod %s failed, and its program ended with %v", pod.Name, codes)
	case phase == corev1.PodFailed && pod.Status.Reason != "" && pod.Spec.RestartPolicy != corev1.RestartPolicyNever:
		problem("pod %s, of policy %s, failed: %s", pod.Name, pod.Spec.RestartPolicy, pod.Status.Reason)
	case terminal(phase):
		if len(in) > 0 {
			problem("pod %s is %s, and its instance %s is there", pod.Name, phase, in[0].id)
		}
	case len(in) != 1:
		problem("pod %s is %s, and %d cells have it: %s", pod.Name, phase, len(in), c.waitsFor(pod))
	case in[0].kubelet.phase != phase:
		problem("pod %s is %s, and its kubelet says %s", pod.Name, phase, in[0].kubelet.phase)
	case waits(&pod.Status) == in[0].kubelet.running:
		problem("the containers of pod %s are not what its kubelet says", pod.Name)
	}
}

func (c *checker) waitsFor(pod *corev1.Pod) string {
	for _, cond := range pod.Status.Conditions {
		if cond.Type == v1beta1.PodConditionCellReady {
			return cond.Reason + ", " + cond.Message
		}
	}
	return "it does not say why"
}
