package instancetype

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	"sigs.k8s.io/yaml"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func parsePod(t *testing.T, manifest string) *corev1.Pod {
	t.Helper()
	var pod corev1.Pod
	if err := yaml.UnmarshalStrict([]byte(manifest), &pod); err != nil {
		t.Fatal(err)
	}
	return &pod
}

func TestRequirements(t *testing.T) {
	type summary struct {
		CPU, Memory   string
		GPUs          int32
		Models        []string
		Architectures []string
		Zones         []string
		Types         []string
		CapacityTypes []v1beta1.CapacityType
		VolumeGiB     int32
	}
	cases := map[string]struct {
		reason   string
		defaults Defaults
		pod      string
		want     summary
	}{
		"nothing": {
			reason: "a pod without requests gets the documented minimum",
			pod:    `spec: {containers: [{name: a}]}`,
			want:   summary{CPU: "50m", Memory: "128Mi"},
		},
		"sum and init step": {
			reason: "the largest init step counts where it is larger than all containers together",
			pod: `
spec:
  initContainers:
  - {name: i, resources: {requests: {cpu: 2, memory: 100Mi}}}
  containers:
  - {name: a, resources: {requests: {cpu: 500m, memory: 1Gi}}}
  - {name: b, resources: {requests: {cpu: 500m, memory: 1Gi}}}`,
			want: summary{CPU: "2", Memory: "2Gi"},
		},
		"sidecars": {
			reason: "a sidecar runs beside the containers and beside the init steps after it",
			pod: `
spec:
  initContainers:
  - {name: before, resources: {requests: {cpu: 3}}}
  - {name: side, restartPolicy: Always, resources: {requests: {cpu: 1, memory: 1Gi}}}
  - {name: after, resources: {requests: {cpu: 2500m}}}
  containers:
  - {name: a, resources: {requests: {cpu: 1, memory: 1Gi}}}`,
			want: summary{CPU: "3500m", Memory: "2Gi"},
		},
		"pod level and overhead": {
			reason: "resources of the pod replace those of its containers; the RuntimeClass's overhead comes on top",
			pod: `
spec:
  overhead: {cpu: 100m, memory: 64Mi}
  resources: {requests: {cpu: 4, memory: 8Gi}}
  containers: [{name: a, resources: {requests: {cpu: 500m}}}]`,
			want: summary{CPU: "4100m", Memory: "8256Mi"},
		},
		"limits alone": {
			reason: "the API server makes requests of limits; a manifest on disk has not been there",
			pod: `
spec:
  containers:
  - {name: a, resources: {limits: {cpu: 1, memory: 1Gi}, requests: {cpu: 250m}}}`,
			want: summary{CPU: "250m", Memory: "1Gi"},
		},
		"pod-level limits alone": {
			reason: "as above, but what the containers request is not replaced",
			pod: `
spec:
  resources: {limits: {cpu: 4, memory: 8Gi}}
  containers: [{name: a, resources: {requests: {cpu: 500m}}}]`,
			want: summary{CPU: "500m", Memory: "8Gi"},
		},
		"annotations": {
			reason: "all annotations of this package",
			pod: `
metadata:
  annotations:
    pod.elotl.co/instance-type: "C6i.*, m6i.large,!*.metal"
    pod.elotl.co/launch-type: spot
    pod.elotl.co/volume-size: 100G
spec: {containers: [{name: a}]}`,
			want: summary{CPU: "50m", Memory: "128Mi", Types: []string{"c6i.*", "m6i.large", "!*.metal"},
				CapacityTypes: []v1beta1.CapacityType{"spot"}, VolumeGiB: 94},
		},
		"GPU": {
			reason: "GPUs are limits; the model is an annotation",
			pod: `
metadata: {annotations: {pod.elotl.co/gpu-type: "T4, L4", pod.elotl.co/volume-size: "30"}}
spec: {containers: [{name: a, resources: {limits: {nvidia.com/gpu: 2}}}]}`,
			want: summary{CPU: "50m", Memory: "128Mi", GPUs: 2, Models: []string{"T4", "L4"}, VolumeGiB: 30},
		},
		"GPU model alone": {
			reason: "who names a model wants one",
			pod: `
metadata: {annotations: {pod.elotl.co/gpu-type: T4}}
spec: {containers: [{name: a}]}`,
			want: summary{CPU: "50m", Memory: "128Mi", GPUs: 1, Models: []string{"T4"}},
		},
		"selectors": {
			reason: "node selector and affinity restrict the instance; labels of the virtual node do not",
			pod: `
spec:
  nodeSelector: {kubernetes.io/arch: arm64, kubernetes.io/os: linux, type: virtual-kubelet}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions:
          - {key: topology.kubernetes.io/zone, operator: In, values: [us-west-2b, us-west-2a, us-west-2c]}
          - {key: failure-domain.beta.kubernetes.io/zone, operator: NotIn, values: [us-west-2c]}
          - {key: node.kubernetes.io/instance-type, operator: NotIn, values: [t4g.nano]}
          - {key: team, operator: In, values: [a]}
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi", Architectures: []string{"arm64"},
				Zones: []string{"us-west-2a", "us-west-2b"}, Types: []string{"!t4g.nano"}},
		},
		"selector and annotation": {
			reason: "both must accept the type",
			pod: `
metadata: {annotations: {pod.elotl.co/instance-type: "t3.*"}}
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions:
          - {key: node.kubernetes.io/instance-type, operator: In, values: [m5.large, t3.small]}
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi", Types: []string{"t3.small"}},
		},
		"not amd64": {
			reason: "of two architectures one excluded leaves the other",
			pod: `
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/arch, operator: NotIn, values: [amd64]}]
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi", Architectures: []string{"arm64"}},
		},
		"terms of one label": {
			reason: "alternatives of the same label are joined",
			pod: `
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [b]}]
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [a]}]
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi", Zones: []string{"a", "b"}},
		},
		"a term that lets everything through": {
			reason: "terms are alternatives",
			pod: `
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [b]}]
        - matchExpressions: [{key: type, operator: In, values: [virtual-kubelet]}]
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi"},
		},
		"terms of different labels": {
			reason: "one has to be taken: the first",
			pod: `
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [b]}]
        - matchExpressions: [{key: kubernetes.io/arch, operator: In, values: [arm64]}]
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi", Zones: []string{"b"}},
		},
		"ephemeral storage": {
			reason: "a request that the default volume cannot hold makes a larger one",
			pod:    `spec: {containers: [{name: a, resources: {requests: {ephemeral-storage: 40Gi}}}]}`,
			want:   summary{CPU: "50m", Memory: "128Mi", VolumeGiB: 45},
		},
		"little ephemeral storage": {
			reason: "the default volume is large enough",
			pod:    `spec: {containers: [{name: a, resources: {requests: {ephemeral-storage: 1Gi}}}]}`,
			want:   summary{CPU: "50m", Memory: "128Mi"},
		},
		"defaults": {
			reason:   "the configuration speaks for pods that say nothing",
			defaults: Defaults{InstanceType: "t3.small", CapacityTypes: []v1beta1.CapacityType{"spot", "on-demand"}},
			pod:      `spec: {containers: [{name: a}]}`,
			want: summary{CPU: "50m", Memory: "128Mi", Types: []string{"t3.small"},
				CapacityTypes: []v1beta1.CapacityType{"spot", "on-demand"}},
		},
		"the virtual node's zone": {
			reason:   "it is in one of those that the pod accepts, and so are all cells",
			defaults: Defaults{Zone: "us-west-2b", Architectures: []string{"arm64", "amd64"}},
			pod: `
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [us-west-2b, us-west-2c]}]
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi", Zones: []string{"us-west-2b"}, Architectures: []string{"arm64", "amd64"}},
		},
		"terms elsewhere": {
			reason:   "the scheduler went by the second term, which the virtual node meets",
			defaults: Defaults{Zone: "us-west-2b"},
			pod: `
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions:
          - {key: topology.kubernetes.io/zone, operator: In, values: [us-west-2a]}
          - {key: kubernetes.io/arch, operator: In, values: [arm64]}
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: NotIn, values: [us-west-2c]}]
  containers: [{name: a}]`,
			want: summary{CPU: "50m", Memory: "128Mi", Zones: []string{"us-west-2b"}},
		},
		"a type in full": {
			reason:   "who names one has chosen the architecture",
			defaults: Defaults{Architectures: []string{"arm64", "amd64"}},
			pod: `
metadata: {annotations: {pod.elotl.co/instance-type: "t3.*, c6i.large"}}
spec: {containers: [{name: a}]}`,
			want: summary{CPU: "50m", Memory: "128Mi", Types: []string{"t3.*", "c6i.large"}},
		},
		"defaults overridden": {
			reason:   "the pod's own words win",
			defaults: Defaults{InstanceType: "t3.small", CapacityTypes: []v1beta1.CapacityType{"spot"}},
			pod: `
metadata: {annotations: {pod.elotl.co/launch-type: on-demand}}
spec: {containers: [{name: a, resources: {requests: {memory: 1Gi}}}]}`,
			want: summary{CPU: "50m", Memory: "1Gi", CapacityTypes: []v1beta1.CapacityType{"on-demand"}},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			pod := parsePod(t, c.pod)
			before := pod.DeepCopy()
			got, err := c.defaults.Requirements(pod)
			if err != nil {
				t.Fatalf("%s: %v", c.reason, err)
			}
			s := summary{got.CPU.String(), got.Memory.String(), got.GPUs, got.GPUModels, got.Architectures,
				got.Zones, got.InstanceTypes, got.CapacityTypes, got.VolumeGiB}
			if diff := cmp.Diff(c.want, s); diff != "" {
				t.Errorf("%s: -want +got\n%s", c.reason, diff)
			}
			if diff := cmp.Diff(before, pod); diff != "" {
				t.Errorf("the pod was modified: -before +after\n%s", diff)
			}
		})
	}
}

func TestRequirementsRefuse(t *testing.T) {
	cases := map[string]struct {
		reason   string
		defaults Defaults
		pod      string
		want     []string // parts of the message
	}{
		"launch type": {
			reason: "the annotation, the value and what is allowed are named",
			pod:    `{metadata: {annotations: {pod.elotl.co/launch-type: sopt}}}`,
			want:   []string{"pod.elotl.co/launch-type", `"sopt"`, "on-demand, spot or spot-preferred"},
		},
		"several": {
			reason: "all mistakes are told at once",
			pod: `
metadata:
  annotations:
    pod.elotl.co/launch-type: ""
    pod.elotl.co/instance-type: "c6i.[*"
    pod.elotl.co/gpu-type: "T4,,L4"
    pod.elotl.co/volume-size: "0"`,
			want: []string{`launch-type: ""`, `malformed pattern "c6i.[*"`, "gpu-type", "empty pattern", `volume-size: "0"`, "1Gi to 64Ti"},
		},
		"volume": {
			reason: "not a quantity",
			pod:    `{metadata: {annotations: {pod.elotl.co/volume-size: big}}}`,
			want:   []string{`"big"`},
		},
		"volume too large": {
			reason: "no such volume exists",
			pod:    `{metadata: {annotations: {pod.elotl.co/volume-size: 65Ti}}}`,
			want:   []string{`"65Ti"`, "64Ti"},
		},
		"volume with an exponent": {
			reason: "comparing such a quantity takes for ever",
			pod:    `{metadata: {annotations: {pod.elotl.co/volume-size: "1e999999999"}}}`,
			want:   []string{`"1e999999999"`, "64Ti"},
		},
		"endless list": {
			reason: "every pattern is compared with every type",
			pod:    `{metadata: {annotations: {pod.elotl.co/instance-type: "` + manyPatterns() + `"}}}`,
			want:   []string{"at most 100"},
		},
		"windows": {
			reason: "cells run Linux",
			pod:    `{spec: {nodeSelector: {kubernetes.io/os: windows}, os: {name: windows}}}`,
			want:   []string{"kubernetes.io/os", `"windows"`, "linux", "spec.os.name"},
		},
		"architecture": {
			reason: "no such instances",
			pod:    `{spec: {nodeSelector: {kubernetes.io/arch: s390x}}}`,
			want:   []string{"kubernetes.io/arch", `"s390x"`, "amd64 or arm64"},
		},
		"contradiction": {
			reason: "no zone is two zones",
			pod: `
spec:
  nodeSelector: {topology.kubernetes.io/zone: a}
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: topology.kubernetes.io/zone, operator: In, values: [b]}]`,
			want: []string{"topology.kubernetes.io/zone", "contradicting values"},
		},
		"operator": {
			reason: "Gt on an architecture means nothing",
			pod: `
spec:
  affinity:
    nodeAffinity:
      requiredDuringSchedulingIgnoredDuringExecution:
        nodeSelectorTerms:
        - matchExpressions: [{key: kubernetes.io/arch, operator: Gt, values: ["1"]}]`,
			want: []string{"kubernetes.io/arch", `"Gt"`, "In, NotIn or Exists"},
		},
		"another zone": {
			reason:   "only kubelet.labels can have changed since it was scheduled",
			defaults: Defaults{Zone: "us-west-2a"},
			pod:      `{spec: {nodeSelector: {topology.kubernetes.io/zone: us-west-2b}}}`,
			want:     []string{"topology.kubernetes.io/zone", "us-west-2b", "all cells are in us-west-2a"},
		},
		"types that exclude each other": {
			reason: "annotation and selector have nothing in common",
			pod: `
metadata: {annotations: {pod.elotl.co/instance-type: "c6i.*"}}
spec: {nodeSelector: {node.kubernetes.io/instance-type: m5.large}}`,
			want: []string{"pod.elotl.co/instance-type", "c6i.*", "m5.large"},
		},
		"resources": {
			reason: "no cell has them",
			pod:    `{spec: {containers: [{name: a, resources: {limits: {amd.com/gpu: 1, hugepages-2Mi: 4Mi, memory: 4Mi}}}]}}`,
			want:   []string{"amd.com/gpu", "hugepages-2Mi", "nvidia.com/gpu"},
		},
		"part of a GPU": {
			reason: "a GPU cannot be cut",
			pod:    `{spec: {containers: [{name: a, resources: {limits: {nvidia.com/gpu: 500m}}}]}}`,
			want:   []string{"nvidia.com/gpu", "whole number"},
		},
		"negative": {
			reason: "the API server refuses it, a file may hold it",
			pod:    `{spec: {containers: [{name: a, resources: {requests: {cpu: "-1"}}}]}}`,
			want:   []string{"request of cpu", `"-1"`},
		},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := c.defaults.Requirements(parsePod(t, c.pod))
			var invalid *InvalidPodError
			if !errors.As(err, &invalid) {
				t.Fatalf("%s: got error %v, want an InvalidPodError", c.reason, err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: error %q does not say %q", c.reason, err, part)
				}
			}
		})
	}
}

func manyPatterns() string {
	var all []string
	for i := range maxPatterns + 1 {
		all = append(all, fmt.Sprintf("t%d.*", i))
	}
	return strings.Join(all, ",")
}

func FuzzAnnotations(f *testing.F) {
	f.Add("c6i.*, m6i.large", "T4", "spot", "100Gi")
	f.Add("!t3.*,[a-", ",", "on-demand ", "9223372036854775807")
	f.Add("a\\", "*?", "", "1e999999999")
	f.Fuzz(func(t *testing.T, types, gpus, launch, volume string) {
		m := map[string]string{
			AnnotationInstanceType: types, AnnotationGPUType: gpus,
			AnnotationLaunchType: launch, AnnotationVolumeSize: volume,
		}
		a, err := parseAnnotations(m)
		if err != nil {
			var invalid *InvalidPodError
			if !errors.As(err, &invalid) || !strings.HasPrefix(invalid.Field, "annotation pod.elotl.co/") || invalid.Allowed == "" {
				t.Fatalf("untyped or unclear error: %v", err)
			}
			return
		}
		if a.volumeGiB < 1 || a.volumeGiB > maxVolumeGiB {
			t.Errorf("volume %q is %d GiB", volume, a.volumeGiB)
		}
		if len(a.instanceTypes) == 0 || len(a.gpuModels) == 0 || len(a.capacityTypes) != 1 {
			t.Errorf("accepted, but empty: %+v", a)
		}
		for _, p := range append(a.instanceTypes, a.gpuModels...) {
			if err := checkPattern(p); err != nil {
				t.Errorf("accepted %q: %v", p, err)
			}
		}
		again, err := parseAnnotations(map[string]string{
			AnnotationInstanceType: strings.Join(a.instanceTypes, ","), AnnotationGPUType: strings.Join(a.gpuModels, ","),
			AnnotationLaunchType: string(a.capacityTypes[0]), AnnotationVolumeSize: volume,
		})
		if err != nil {
			t.Fatalf("not accepted a second time: %v", err)
		}
		if diff := cmp.Diff(a, again, cmp.AllowUnexported(annotations{})); diff != "" {
			t.Errorf("parsing what was parsed: -first +second\n%s", diff)
		}
	})
}
