package e2e

import (
	"context"
	"fmt"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// The kinds of volumes that need nothing but the machine and the API server,
// and the ways to mount them. The user is not root, so that fsGroup counts.
const volumesManifest = `
apiVersion: v1
kind: ConfigMap
metadata: {name: settings}
data: {greeting: hello, farewell: goodbye}
binaryData: {bytes: AAEC}
---
apiVersion: v1
kind: Secret
metadata: {name: password}
stringData: {password: sesame}
---
apiVersion: v1
kind: Pod
metadata: {name: volumes, labels: {team: blue}, annotations: {note: first}}
spec:
  nodeSelector: {type: virtual-kubelet}
  tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
  terminationGracePeriodSeconds: 2
  securityContext: {runAsUser: 1000, runAsGroup: 1000, fsGroup: 2000, fsGroupChangePolicy: OnRootMismatch}
  containers:
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']
    resources: {requests: {cpu: 50m, memory: 32Mi}, limits: {memory: 96Mi}}
    env: [{name: POD_NAME, valueFrom: {fieldRef: {fieldPath: metadata.name}}}]
    volumeMounts:
    - {name: disk, mountPath: /disk}
    - {name: disk, mountPath: /sub, subPath: one}
    - {name: disk, mountPath: /expanded, subPathExpr: two/$(POD_NAME)}
    - {name: disk, mountPath: /read-only, readOnly: true}
    - {name: memory, mountPath: /memory}
    - {name: settings, mountPath: /settings}
    - {name: settings, mountPath: /etc/greeting, subPath: greeting}
    - {name: some, mountPath: /some}
    - {name: password, mountPath: /password}
    - {name: together, mountPath: /together}
    - {name: about, mountPath: /about}
    - {name: image, mountPath: /image}
    - {name: machine, mountPath: /machine}
    - {name: file, mountPath: /machine-file}
    - {name: share, mountPath: /share, mountPropagation: HostToContainer}
    - {name: host-share, mountPath: /host-share, mountPropagation: HostToContainer}
  - name: mounter
    image: busybox
    imagePullPolicy: IfNotPresent
    command:
    - sh
    - -c
    - for d in /share /host-share; do mkdir -p $d/inner && mount -t tmpfs inner $d/inner && echo seen >$d/inner/file || exit 1; done
      && echo quiet >/private/word && mkdir /private/inner && mount -t tmpfs inner /private/inner && echo unseen >/private/inner/file || exit 1;
      trap "umount /share/inner /host-share/inner; exit 0" TERM; while :; do sleep 1 & wait $!; done
    securityContext: {privileged: true, runAsUser: 0}
    resources: {requests: {cpu: 50m, memory: 32Mi}}
    volumeMounts:
    - {name: share, mountPath: /share, mountPropagation: Bidirectional}
    - {name: host-share, mountPath: /host-share, mountPropagation: Bidirectional}
    - {name: disk, mountPath: /private}
  volumes:
  - {name: disk, emptyDir: {}}
  - {name: memory, emptyDir: {medium: Memory, sizeLimit: 4Mi}}
  - {name: settings, configMap: {name: settings, defaultMode: 0440}}
  - {name: some, configMap: {name: settings, items: [{key: farewell, path: deep/file, mode: 0400}]}}
  - {name: password, secret: {secretName: password}}
  - {name: missing, secret: {secretName: nothing, optional: true}}
  - name: together
    projected:
      sources:
      - configMap: {name: settings, items: [{key: greeting, path: greeting}]}
      - secret: {name: password}
      - serviceAccountToken: {path: token, audience: vault, expirationSeconds: 600}
      - downwardAPI: {items: [{path: uid, fieldRef: {fieldPath: metadata.uid}}]}
  - name: about
    downwardAPI:
      items:
      - {path: labels, fieldRef: {fieldPath: metadata.labels}}
      - {path: annotations, fieldRef: {fieldPath: metadata.annotations}}
      - {path: memory, resourceFieldRef: {containerName: main, resource: limits.memory, divisor: 1Mi}}
      - {path: cpu, resourceFieldRef: {containerName: main, resource: requests.cpu, divisor: 1m}}
  - {name: image, image: {reference: ` + testImage + `, pullPolicy: IfNotPresent}}
  - {name: machine, hostPath: {path: /var/local/of-the-cell, type: DirectoryOrCreate}}
  - {name: file, hostPath: {path: /etc/resolv.conf, type: File}}
  - {name: share, emptyDir: {}}
  - {name: host-share, hostPath: {path: /var/local/shared, type: DirectoryOrCreate}}
`

func TestVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(volumesManifest)
	pod := s.awaitReady("volumes")
	machine := machineOf(t, s.cellOf(pod))
	for what, c := range map[string]struct{ script, want string }{
		"emptyDir belongs to the fsGroup":       {"echo x >/disk/file && stat -c '%g %a' /disk/file && stat -c %g /disk", "2000 644\n2000"},
		"subPath":                               {"echo 1 >/sub/file && cat /disk/one/file", "1"},
		"subPathExpr":                           {"echo 2 >/expanded/file && cat /disk/two/volumes/file", "2"},
		"readOnly":                              {"(echo x >/read-only/y) 2>&1 || ls -d /read-only/one", "sh: can't create /read-only/y: Read-only file system\n/read-only/one"},
		"emptyDir in memory":                    {"stat -fc %T /memory; df -k /memory | tail -1 | awk '{print $2}'", "tmpfs\n4096"},
		"its limit":                             {"head -c 5000000 /dev/zero >/memory/big 2>/dev/null && echo fits || echo full; rm /memory/big", "full"},
		"ConfigMap":                             {"cat /settings/greeting; echo; stat -Lc '%a %g' /settings/greeting; wc -c </settings/bytes", "hello\n440 2000\n3"},
		"one file of a ConfigMap":               {"cat /etc/greeting", "hello"},
		"chosen items of a ConfigMap":           {"ls /some; cat /some/deep/file; echo; stat -Lc %a /some/deep/file", "deep\ngoodbye\n440"},
		"Secret, in memory":                     {"cat /password/password; echo; stat -fc %T /password", "sesame\ntmpfs"},
		"projected":                             {"ls /together; cat /together/greeting /together/password /together/uid; test -s /together/token && echo", "greeting\npassword\ntoken\nuid\nhellosesame" + string(pod.UID)},
		"downward API":                          {"grep team /about/labels; grep ^note /about/annotations; cat /about/memory; echo; cat /about/cpu", "team=\"blue\"\nnote=\"first\"\n96\n50"},
		"image":                                 {"test -x /image/testimage && /image/testimage print 9 | wc -c; touch /image/x 2>&1", "9\ntouch: /image/x: Read-only file system"},
		"hostPath":                              {"ls /machine | wc -l; grep -c nameserver /machine-file", "0\n1"},
		"mounts that another container made":    {"cat /share/inner/file /host-share/inner/file", "seen\nseen"},
		"but not where it keeps them to itself": {"cat /disk/word; ls /disk/inner | wc -l", "quiet\n0"},
	} {
		out, _ := s.tryKubectl("", "exec", "volumes", "-c", "main", "--", "sh", "-c", c.script)
		out, _, _ = strings.Cut(out, "command terminated with")
		if got := strings.TrimSpace(out); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
	// What the host is to the pod is the cell.
	s.kubectl("exec", "volumes", "-c", "mounter", "--", "sh", "-c", "echo from the pod >/host-share/word")
	if got := string(machine.read(t, "/var/local/shared/word")); got != "from the pod\n" {
		t.Errorf("the cell's /var/local/shared/word holds %q", got)
	}

	// Changes arrive, but for those of a file mounted by itself.
	s.kubectl("patch", "configmap", "settings", "-p", `{"data":{"greeting":"good day"}}`)
	s.kubectl("annotate", "pod", "volumes", "--overwrite", "note=second")
	for file, want := range map[string]string{"/settings/greeting": "good day", "/together/greeting": "good day", "/about/annotations": `note="second"`} {
		s.outputs("volumes", "main", "cat "+file, want)
	}
	if got := s.kubectl("exec", "volumes", "-c", "main", "--", "cat", "/etc/greeting"); got != "hello" {
		t.Errorf("a ConfigMap's file by subPath became %q", got)
	}
}

// outputs waits until a script in a container prints something with want in it.
func (s *space) outputs(pod, container, script, want string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s: %s prints %q", pod, script, want), func(context.Context) error {
		out, code := s.tryKubectl("", "exec", pod, "-c", container, "--", "sh", "-c", script)
		if code != 0 || !strings.Contains(out, want) {
			return fmt.Errorf("code %d: %s", code, out)
		}
		return nil
	})
}

// Claims bind to volumes that are there, also where their place is the virtual
// node; the kubelet mounts them on the cell.
func TestPersistentVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	t.Cleanup(func() { // they belong to no namespace
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := kubectlCommand(ctx, "delete", "persistentvolumes,storageclasses", "-l", "space="+s.name, "--wait=false").CombinedOutput(); err != nil {
			t.Errorf("removing the volumes: %v\n%s", err, out)
		}
	})
	manifest := `
apiVersion: storage.k8s.io/v1
kind: StorageClass
metadata: {name: SPACE-local, labels: {space: SPACE}}
provisioner: kubernetes.io/no-provisioner
volumeBindingMode: WaitForFirstConsumer
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: SPACE-local, labels: {space: SPACE}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteOnce]
  storageClassName: SPACE-local
  local: {path: /var/lib}
  nodeAffinity:
    required: {nodeSelectorTerms: [{matchExpressions: [{key: kubernetes.io/hostname, operator: In, values: [NODE]}]}]}
---
apiVersion: v1
kind: PersistentVolume
metadata: {name: SPACE-host, labels: {space: SPACE}}
spec:
  capacity: {storage: 1Gi}
  accessModes: [ReadWriteMany]
  storageClassName: ""
  hostPath: {path: /var/local/volume, type: DirectoryOrCreate}
  claimRef: {namespace: SPACE, name: host}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: local}
spec: {storageClassName: SPACE-local, accessModes: [ReadWriteOnce], resources: {requests: {storage: 1Gi}}}
---
apiVersion: v1
kind: PersistentVolumeClaim
metadata: {name: host}
spec: {storageClassName: "", volumeName: SPACE-host, accessModes: [ReadWriteMany], resources: {requests: {storage: 1Gi}}}
`
	s.apply(strings.NewReplacer("SPACE", s.name, "NODE", localcluster.NodeName).Replace(manifest))
	pod := newPod("claims", shell("main", forever))
	pod.Spec.Volumes = []corev1.Volume{
		{Name: "local", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "local"}}},
		{Name: "host", VolumeSource: corev1.VolumeSource{PersistentVolumeClaim: &corev1.PersistentVolumeClaimVolumeSource{ClaimName: "host"}}},
	}
	pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "local", MountPath: "/local"}, {Name: "host", MountPath: "/host"}}
	started := s.start(pod)
	s.kubectl("exec", "claims", "--", "sh", "-c", "echo one >/local/file; echo two >/host/file")
	machine := machineOf(t, s.cellOf(started))
	for path, want := range map[string]string{"/var/lib/file": "one\n", "/var/local/volume/file": "two\n"} {
		if got := string(machine.read(t, path)); got != want {
			t.Errorf("the cell's %s holds %q, want %q", path, got, want)
		}
	}
	for _, claim := range []string{"local", "host"} {
		c, err := shared.kube.CoreV1().PersistentVolumeClaims(s.name).Get(t.Context(), claim, metav1.GetOptions{})
		if err != nil || c.Status.Phase != corev1.ClaimBound {
			t.Errorf("claim %s is %s (%v)", claim, c.Status.Phase, err)
		}
	}
}

// A volume that the cell's kubelet cannot mount keeps the pod waiting, with an
// event that names it. Nothing else is mounted in its place.
func TestUnsupportedVolumes(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	for name, source := range map[string]corev1.VolumeSource{
		"csi":  {CSI: &corev1.CSIVolumeSource{Driver: "none.example.com"}},
		"flex": {FlexVolume: &corev1.FlexVolumeSource{Driver: "example.com/none"}},
	} {
		pod := newPod(name, shell("main", forever))
		pod.Spec.Volumes = []corev1.Volume{{Name: "strange", VolumeSource: source}}
		pod.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "strange", MountPath: "/strange"}}
		s.create(pod)
	}
	for name, says := range map[string]string{"csi": "none.example.com", "flex": "strange"} {
		if message := s.awaitEvent(name, "FailedMount"); !strings.Contains(message, says) {
			t.Errorf("%s: the event does not say %q: %s", name, says, message)
		}
		if pod, err := s.pod(t.Context(), name); err != nil || pod.Status.Phase != corev1.PodPending {
			t.Errorf("%s is %s (%v), want Pending", name, pod.Status.Phase, err)
		}
	}
}

// A pod that fills more of its cell's disk than it may is evicted, and says so.
// The kubelet measures volumes once a minute only.
func TestStorageLimits(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	dir := newPod("dir", shell("main", "head -c 30000000 /dev/zero >/disk/file; exec sleep 1000"))
	dir.Spec.Volumes = []corev1.Volume{{Name: "disk", VolumeSource: corev1.VolumeSource{EmptyDir: &corev1.EmptyDirVolumeSource{SizeLimit: quantity("10Mi")}}}}
	dir.Spec.Containers[0].VolumeMounts = []corev1.VolumeMount{{Name: "disk", MountPath: "/disk"}}
	s.create(dir)
	layer := newPod("layer", shell("main", "head -c 30000000 /dev/zero >/file; exec sleep 1000"))
	layer.Spec.Containers[0].Resources.Limits = corev1.ResourceList{corev1.ResourceEphemeralStorage: *quantity("10Mi")}
	s.create(layer)
	for name, says := range map[string]string{"dir": `EmptyDir volume "disk" exceeds the limit "10Mi"`, "layer": `exceeds the total limit of containers 10Mi`} {
		var pod *corev1.Pod
		s.within(3*patience, name+" has ended", func(ctx context.Context) (err error) {
			if pod, err = s.pod(ctx, name); err != nil {
				return err
			}
			return hasEnded(pod)
		})
		if pod.Status.Phase != corev1.PodFailed || pod.Status.Reason != "Evicted" || !strings.Contains(pod.Status.Message, says) {
			t.Errorf("%s is %s, reason %s: %s", name, pod.Status.Phase, pod.Status.Reason, pod.Status.Message)
		}
	}
}
