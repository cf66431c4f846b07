package provider

import (
	"errors"
	"regexp"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// TestImagesDecideAboutTheArchitecture: a cell is written when the images of its
// pod are known, or are known not to be.
func TestImagesDecideAboutTheArchitecture(t *testing.T) {
	both := &corev1.Affinity{NodeAffinity: &corev1.NodeAffinity{RequiredDuringSchedulingIgnoredDuringExecution: &corev1.NodeSelector{
		NodeSelectorTerms: []corev1.NodeSelectorTerm{{MatchExpressions: []corev1.NodeSelectorRequirement{{
			Key: corev1.LabelArchStable, Operator: corev1.NodeSelectorOpIn, Values: []string{"arm64", "amd64"},
		}}}},
	}}}
	for name, tc := range map[string]struct {
		reason   string
		defaults []string
		affinity *corev1.Affinity
		images   []string
		asks     bool
		want     []string
	}{
		"one architecture":             {"there is nothing to choose", []string{"amd64"}, nil, []string{"amd64", "arm64"}, false, []string{"amd64"}},
		"made for both":                {"the cheaper one will be chosen", []string{"amd64", "arm64"}, nil, []string{"amd64", "arm64"}, true, []string{"amd64", "arm64"}},
		"made for one":                 {"that one", []string{"amd64", "arm64"}, nil, []string{"arm64"}, true, []string{"arm64"}},
		"not known":                    {"the first", []string{"arm64", "amd64"}, nil, nil, true, []string{"arm64"}},
		"the pod names both":           {"it is believed where nothing else is known", []string{"amd64"}, both, nil, true, []string{"amd64", "arm64"}},
		"the pod names too many":       {"images that are not made for arm64 do not run there", []string{"amd64"}, both, []string{"amd64"}, true, []string{"amd64"}},
		"the pod names both, for none": {"its own word is left, and the pull's error", []string{"amd64"}, both, []string{"s390x"}, true, []string{"amd64", "arm64"}},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.kip.Defaults.Architectures = tc.defaults
			w.asking = true
			w.add(func(p *corev1.Pod) { p.Spec.Affinity = tc.affinity })
			result, err := w.reconcile()
			if err != nil {
				t.Fatal(err)
			}
			if asks := result.RequeueAfter > 0; asks != tc.asks || asks != (w.cell() == nil) {
				t.Fatalf("%s: asks %t, cell %v", tc.reason, asks, w.cell())
			}
			w.asking, w.images = false, tc.images
			w.must()
			if diff := cmp.Diff(tc.want, w.cell().Spec.Requirements.Architectures); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			// An answer that is out of date is no reason to touch the cell.
			version := w.cell().ResourceVersion
			w.asking = true
			w.must()
			if w.cell().ResourceVersion != version {
				t.Error("the cell was written without news")
			}
		})
	}
}

func TestNewPodGetsACell(t *testing.T) {
	w := newWorld(t)
	pod := w.add(func(p *corev1.Pod) {
		p.Spec.Containers[0].Resources.Requests = corev1.ResourceList{corev1.ResourceCPU: resource.MustParse("500m"), corev1.ResourceMemory: resource.MustParse("1Gi")}
		p.Annotations = map[string]string{
			"pod.elotl.co/private-ip-only": "true", "pod.elotl.co/security-groups": "sg-1, sg-2,", "pod.elotl.co/instance-profile": "reader",
			"pod.elotl.co/launch-type": "spot", "pod.elotl.co/cloud-route": "192.168.1.0/28 10.20.30.40/24,10.20.30.0/24",
		}
	})
	w.must()
	cell := w.wantCell(0, false)
	if cell.Name != CellName(pod, 0) {
		t.Errorf("the cell is called %s", cell.Name)
	}
	if diff := cmp.Diff([]string{v1beta1.Finalizer}, cell.Finalizers); diff != "" {
		t.Errorf("without the finalizer the instance could leak: %s", diff)
	}
	if diff := cmp.Diff(map[string]string{v1beta1.LabelNode: testNode, v1beta1.LabelPodUID: string(testUID)}, cell.Labels); diff != "" {
		t.Errorf("the cache would not hold the cell: %s", diff)
	}
	if cell.Spec.NodeName != testNode || *cell.Spec.Pod != (v1beta1.PodReference{Namespace: "default", Name: "web", UID: testUID}) {
		t.Errorf("the cell is for %s, %+v", cell.Spec.NodeName, cell.Spec.Pod)
	}
	if r := cell.Spec.Requirements; r.CPU.String() != "500m" || r.Memory.String() != "1Gi" || len(r.CapacityTypes) == 0 || r.CapacityTypes[0] != v1beta1.Spot {
		t.Errorf("requirements %+v", r)
	}
	private := true
	want := v1beta1.InstanceSettings{PrivateIPOnly: &private, SecurityGroups: []string{"sg-1", "sg-2"}, InstanceProfile: "reader",
		Routes: []string{"10.20.30.0/24", "192.168.1.0/28"}}
	if diff := cmp.Diff(want, cell.Spec.Instance); diff != "" {
		t.Error(diff)
	}
	if c := w.cellReadyOf(); c.Status != corev1.ConditionFalse || c.Reason != v1beta1.ReasonPending || c.Message == "" {
		t.Errorf("the pod must say what it waits for: %+v", c)
	}

	// Looking again changes nothing.
	version := cell.ResourceVersion
	w.settle()
	if got := w.wantCell(0, false); got.ResourceVersion != version {
		t.Error("the cell is written again and again")
	}
	w.wantEvents()
}

func TestCellIsMadeOnceWhateverTheCacheSays(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.staleCells = []v1beta1.Cell{}
	w.must()
	w.must() // the cache has not heard of the cell
	w.staleCells = nil
	w.wantCell(0, false)
}

func TestLostAnswerOfCreate(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.lost = func(call string) error {
		if call == "create cell" {
			return errors.New("connection lost")
		}
		return nil
	}
	if _, err := w.reconcile(); err == nil {
		t.Fatal("an error must bring the reconciler back")
	}
	w.lost = nil
	w.settle()
	w.wantCell(0, false)
}

func TestPodOfAnotherNodeIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.add(func(p *corev1.Pod) { p.Spec.NodeName = "other" })
	w.must()
	if len(w.cells()) != 0 {
		t.Error("a cell for another node's pod")
	}
}

func TestInvalidPodIsToldOnceAndCorrected(t *testing.T) {
	for name, annotation := range map[string][2]string{
		"private-ip-only": {annotationPrivateIPOnly, "yes"},
		"security-groups": {annotationSecurityGroups, "default"},
		"cloud-route":     {annotationCloudRoute, "10.20.0.0/16 10.20.0.1"},
		"cloud-route 6":   {annotationCloudRoute, "fd00::/64"},
		"launch-type":     {"pod.elotl.co/launch-type", "sport"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.add(func(p *corev1.Pod) { p.Annotations[annotation[0]] = annotation[1] })
			w.settle()
			if len(w.cells()) != 0 {
				t.Fatal("a cell for an invalid pod")
			}
			if c := w.cellReadyOf(); c.Status != corev1.ConditionFalse || c.Reason != v1beta1.ReasonInvalidPod || !strings.Contains(c.Message, annotation[0]) {
				t.Errorf("the condition must name the annotation: %+v", c)
			}
			w.wantEvents(v1beta1.ReasonInvalidPod)

			w.annotate(annotation[0], "")
			w.settle()
			w.wantCell(0, false)
			if c := w.cellReadyOf(); c.Reason != v1beta1.ReasonPending {
				t.Errorf("condition %+v of a corrected pod", c)
			}
			w.wantEvents()

			// The same mistake again, made anew.
			w.annotate(annotation[0], annotation[1])
			w.settle()
			w.wantEvents(v1beta1.ReasonInvalidPod)
		})
	}
}

func TestOtherOSIsRejected(t *testing.T) {
	w := newWorld(t)
	w.add(func(p *corev1.Pod) { p.Spec.OS = &corev1.PodOS{Name: corev1.Windows} })
	w.settle()
	if len(w.cells()) != 0 {
		t.Error("a cell for a pod that no cell can run")
	}
	if s := w.pod().Status; s.Phase != corev1.PodFailed || s.Reason != "PodOSNotSupported" || !strings.Contains(s.Message, "windows") {
		t.Errorf("phase %s, reason %s: %s", s.Phase, s.Reason, s.Message)
	}
	w.wantEvents(v1beta1.ReasonInvalidPod)
}

func (w *world) annotate(key, value string) {
	w.t.Helper()
	pod := w.pod()
	if pod.Annotations == nil {
		pod.Annotations = map[string]string{}
	}
	pod.Annotations[key] = value
	if value == "" {
		delete(pod.Annotations, key)
	}
	if err := w.api.Update(w.t.Context(), pod); err != nil {
		w.t.Fatal(err)
	}
}

func TestCellFollowsThePodOnlyUntilItIsLaunched(t *testing.T) {
	for phase, follows := range map[v1beta1.CellPhase]bool{
		"": true, v1beta1.CellPending: true, v1beta1.CellLaunching: false, v1beta1.CellBooting: false, v1beta1.CellRunning: false,
	} {
		t.Run(string(phase), func(t *testing.T) {
			w := newWorld(t)
			w.add()
			w.must()
			w.lifecycle(func(c *v1beta1.Cell) { c.Status.Phase = phase })
			w.annotate("pod.elotl.co/instance-type", "c6i.large")
			w.settle()
			if got := len(w.wantCell(0, false).Spec.Requirements.InstanceTypes) > 0; got != follows {
				t.Errorf("follows: %t", got)
			}
			// A mistake in what comes too late is no concern of a running pod.
			w.annotate(annotationPrivateIPOnly, "maybe")
			w.settle()
			if got := w.cellReadyOf().Reason == v1beta1.ReasonInvalidPod; got != follows {
				t.Errorf("the mistake counts: %t", got)
			}
		})
	}
}

func TestRefreshLosesTheRaceAgainstTheLaunch(t *testing.T) {
	w := newWorld(t)
	w.add()
	w.must()
	w.staleCells = []v1beta1.Cell{*w.cell()}
	w.lifecycle(func(c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellLaunching })
	w.annotate("pod.elotl.co/instance-type", "c6i.large")
	if r := w.must(); r.RequeueAfter == 0 {
		t.Error("must look again")
	}
	if types := w.wantCell(0, false).Spec.Requirements.InstanceTypes; len(types) != 0 {
		t.Errorf("the cell asks for %q after the launch", types)
	}
}

func TestCellName(t *testing.T) {
	label := regexp.MustCompile(`^[a-z0-9]([-a-z0-9]*[a-z0-9])?$`)
	seen := map[string]string{}
	for name, pod := range map[string]*corev1.Pod{
		"short": {ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "1"}},
		"other": {ObjectMeta: metav1.ObjectMeta{Name: "a", UID: "2"}},
		"long":  {ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("x", 253), UID: "1"}},
		"dots":  {ObjectMeta: metav1.ObjectMeta{Name: "a.b.c", UID: "1"}},
		"cut":   {ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("x", 51) + ".-y", UID: "1"}},
	} {
		for attempt := range int32(2) {
			got := CellName(pod, attempt)
			if len(got) > 63 || !label.MatchString(got) {
				t.Errorf("%s: %q is no host name", name, got)
			}
			if before, ok := seen[got]; ok {
				t.Errorf("%s has the name of %s", name, before)
			}
			seen[got] = name
		}
	}
}

// TestCellOfAnotherUIDIsEndedFirst: a pod that was made anew under its name.
func TestPodMadeAnew(t *testing.T) {
	w := newWorld(t)
	w.running()
	old := w.cell()
	if err := w.api.Delete(t.Context(), w.pod()); err != nil {
		t.Fatal(err)
	}
	w.add(func(p *corev1.Pod) { p.UID = "another" })
	w.settle()
	cells := w.cells()
	if len(cells) != 2 {
		t.Fatalf("%d cells", len(cells))
	}
	for _, c := range cells {
		if isOld := c.UID == old.UID; isOld != (c.DeletionTimestamp != nil) || isOld == (c.Spec.Pod.UID == "another") {
			t.Errorf("cell %s for pod %s, deleted %v", c.Name, c.Spec.Pod.UID, c.DeletionTimestamp)
		}
	}
	if w.pod().Status.Phase != corev1.PodPending {
		t.Error("the new pod has the old one's status")
	}
}

func TestOrphans(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		happen func(*world)
		ended  bool
		err    bool
	}{
		"gone": {"the pod was deleted without grace", func(w *world) {
			if err := w.api.Delete(w.t.Context(), w.pod()); err != nil {
				w.t.Fatal(err)
			}
		}, true, false},
		"stale cache": {"the cache does not know the pod, the API server does", func(w *world) { w.stalePods = true }, false, true},
		"API server away": {"nothing is ended on a guess", func(w *world) {
			w.stalePods = true
			w.fail = func(call string) error {
				if call == "live get pod" {
					return apierrors.NewServiceUnavailable("away")
				}
				return nil
			}
		}, false, true},
		"another node's cell": {"it is not this Kip's", func(w *world) {
			cell := w.cell()
			cell.Spec.NodeName = "kip-provider-1"
			if err := w.api.Update(w.t.Context(), cell); err != nil {
				w.t.Fatal(err)
			}
			w.stalePods = true
		}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.running()
			tc.happen(w)
			if _, err := w.reconcile(); (err != nil) != tc.err {
				t.Errorf("%s: error %v", tc.reason, err)
			}
			w.wantCell(0, tc.ended)
		})
	}
}

// TestTwoCellsOfOnePod: only a Kip that knew too little can have made the
// other; the one of the last attempt is older and runs the pod.
func TestTwoCellsOfOnePod(t *testing.T) {
	w := newWorld(t)
	pod := w.add()
	w.must()
	spec, err := w.kip.wish(pod)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.kip.launch(t.Context(), pod, spec, 3); err != nil {
		t.Fatal(err)
	}
	w.settle()
	for _, c := range w.cells() {
		if (c.DeletionTimestamp == nil) != (c.Spec.Attempt == 3) {
			t.Errorf("attempt %d: deleted %v", c.Spec.Attempt, c.DeletionTimestamp)
		}
	}
}

func TestIndexAndRequestOfCell(t *testing.T) {
	bound := &v1beta1.Cell{Spec: v1beta1.CellSpec{Pod: &v1beta1.PodReference{Namespace: "a", Name: "b"}}}
	standby := &v1beta1.Cell{}
	if got := indexCell(bound); len(got) != 1 || got[0] != (types.NamespacedName{Namespace: "a", Name: "b"}).String() {
		t.Errorf("index %q", got)
	}
	if indexCell(standby) != nil || requestOfCell(t.Context(), standby) != nil {
		t.Error("a standby cell belongs to no pod")
	}
	if got := requestOfCell(t.Context(), bound); len(got) != 1 || got[0].String() != "a/b" {
		t.Errorf("requests %v", got)
	}
}
