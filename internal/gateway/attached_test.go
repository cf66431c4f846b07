package gateway_test

import (
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/gateway"
)

// A cell sees those attachments of the virtual node that are of its pod's
// volumes, as soon as somebody has written them there.
func TestAttachedVolumes(t *testing.T) {
	const prefix = "kubernetes.io/csi/disk.example.com^vol-"
	attached := func(names ...string) (all []corev1.AttachedVolume) {
		for _, n := range names {
			all = append(all, corev1.AttachedVolume{Name: corev1.UniqueVolumeName(n), DevicePath: "/dev/" + n})
		}
		return all
	}
	no, yes := false, true
	waits := []gateway.Missing{{Kind: "VolumeAttachment", Name: "pv-data"}}
	for name, tc := range map[string]struct {
		reason string
		// required is what the driver says; without is a cluster that does not
		// know the driver.
		required *bool
		without  bool
		pod      *corev1.Pod
		// attached is what the API server's Node says.
		attached []corev1.AttachedVolume
		want     []corev1.AttachedVolume
		told     []gateway.Missing
	}{
		"Attached": {"the kubelet may mount it", &yes, false, webPod(),
			attached(prefix+"pv-other", prefix+"pv-data", prefix+"pv-stolen"), attached(prefix + "pv-data"), nil},
		"Others'": {"not even that they are there is the cell's to know", &yes, false, webPod(),
			attached(prefix+"pv-other", "kubernetes.io/csi/other.example.com^vol-pv-data", prefix+"pv-data2"), nil, waits},
		"NotYet":  {"the pod waits, and its owner hears for what", &yes, false, webPod(), nil, nil, waits},
		"Default": {"attaching is what drivers need that do not say otherwise", nil, false, webPod(), nil, nil, waits},
		"Unknown": {"as is what nobody has told of", nil, true, webPod(), nil, nil, waits},
		"None":    {"a network file system is only mounted", &no, false, webPod(), nil, nil, nil},
		"Standby": {"there is no pod yet that would have a volume", &yes, false, nil, attached(prefix + "pv-data"), nil, nil},
	} {
		t.Run(name, func(t *testing.T) {
			var mu sync.Mutex
			var told []gateway.Missing
			h := newHarness(t, func(c *gateway.Config) {
				c.Missing = func(_ *corev1.Pod, m gateway.Missing) {
					mu.Lock()
					defer mu.Unlock()
					told = append(told, m)
				}
			})
			fillUpstream(h)
			put(h, "/api/v1/nodes/"+node, &corev1.Node{
				TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Node"},
				ObjectMeta: metav1.ObjectMeta{Name: node, Labels: map[string]string{"only": "the virtual node's"}},
				Status:     corev1.NodeStatus{VolumesAttached: tc.attached, VolumesInUse: []corev1.UniqueVolumeName{prefix + "pv-other"}},
			})
			if !tc.without {
				create(t, h, &storagev1.CSIDriver{ObjectMeta: metav1.ObjectMeta{Name: "disk.example.com"}, Spec: storagev1.CSIDriverSpec{AttachRequired: tc.required}})
			}
			if tc.pod != nil {
				h.State.Bind(cell, tc.pod)
			}
			client := h.client(t, false).CoreV1().Nodes()
			for range 2 {
				got, err := client.Get(t.Context(), node, metav1.GetOptions{})
				if err != nil {
					t.Fatal(err)
				}
				if diff := cmp.Diff(tc.want, got.Status.VolumesAttached); diff != "" {
					t.Errorf("%s (-want +got)\n%s", tc.reason, diff)
				}
				if got.Labels["only"] != "" || len(got.Status.VolumesInUse) > 0 {
					t.Errorf("more of the virtual node is shown: %v, %v", got.Labels, got.Status.VolumesInUse)
				}
			}
			mu.Lock()
			defer mu.Unlock()
			if diff := cmp.Diff(tc.told, told); diff != "" {
				t.Errorf("%s: told (-want +got)\n%s", tc.reason, diff)
			}
		})
	}
}

// What is attached comes and goes, and no write of the kubelet's decides it.
func TestAttachedVolumesChange(t *testing.T) {
	const name = "kubernetes.io/csi/disk.example.com^vol-pv-data"
	h := newHarness(t)
	fillUpstream(h)
	h.State.Bind(cell, webPod())
	client := h.client(t, false).CoreV1().Nodes()
	show := func(volumes ...corev1.AttachedVolume) *corev1.Node {
		t.Helper()
		put(h, "/api/v1/nodes/"+node, &corev1.Node{
			TypeMeta: metav1.TypeMeta{APIVersion: "v1", Kind: "Node"}, ObjectMeta: metav1.ObjectMeta{Name: node},
			Status: corev1.NodeStatus{VolumesAttached: volumes},
		})
		got, err := client.Get(t.Context(), node, metav1.GetOptions{})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(volumes, got.Status.VolumesAttached); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
		return got
	}
	show()
	with := show(corev1.AttachedVolume{Name: name, DevicePath: "1"})
	with.Status.VolumesInUse = []corev1.UniqueVolumeName{name}
	with.Status.VolumesAttached = append(with.Status.VolumesAttached, corev1.AttachedVolume{Name: "kubernetes.io/csi/disk.example.com^vol-pv-other"})
	written, err := client.UpdateStatus(t.Context(), with, metav1.UpdateOptions{})
	if err != nil || len(written.Status.VolumesAttached) != 1 || len(written.Status.VolumesInUse) != 1 {
		t.Errorf("after the kubelet's write: %+v, %v", written, err)
	}
	show()
	for _, r := range h.Upstream.Requests() {
		if r.Method != "GET" {
			t.Errorf("at the API server: %s %s", r.Method, r.Path)
		}
	}
}
