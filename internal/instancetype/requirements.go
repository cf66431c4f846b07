package instancetype

import (
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	resourcehelper "k8s.io/component-helpers/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// ResourceGPU is the resource by which pods ask for GPUs.
const ResourceGPU corev1.ResourceName = "nvidia.com/gpu"

// rootReserveGiB is what operating system and container images take of the
// root volume before a pod's ephemeral-storage request.
const rootReserveGiB = 5

// Defaults are the configuration's choices for pods that make none.
type Defaults struct {
	// InstanceType is for pods that request neither CPU, memory nor GPUs and
	// name no type (cells.defaultInstanceType). Empty: DefaultCPUMillis and
	// DefaultMemoryMiB decide.
	InstanceType string

	// CapacityTypes is for pods without the annotation launch-type, the
	// preferred first (cells.defaultLaunchType). Empty: on-demand.
	CapacityTypes []v1beta1.CapacityType

	// Architectures are for pods that name neither an architecture nor an
	// instance type in full; the first is for those whose images are not known
	// to be made for the others (cells.architectures). Empty: amd64.
	Architectures []string

	// Zone is where all cells have to be, because the virtual node says that it
	// is there: the scheduler matched pods and volumes against that. May be
	// empty.
	Zone string

	// VolumeGiB is the size of the root volume (cells.defaultVolumeSize).
	// 0: DefaultVolumeGiB.
	VolumeGiB int32
}

// InvalidPodError says which part of a pod Kip cannot act upon. The pod's owner
// has to change it; trying again is of no use.
type InvalidPodError struct {
	Field   string // such as "annotation pod.elotl.co/launch-type"
	Value   string
	Allowed string // what may stand there instead
}

func (e *InvalidPodError) Error() string {
	return fmt.Sprintf("%s: %q is not possible: %s", e.Field, e.Value, e.Allowed)
}

// RequirementsForPod says what a pod needs of its instance, with Kip's own
// defaults. See Defaults.Requirements.
func RequirementsForPod(pod *corev1.Pod) (v1beta1.Requirements, error) {
	return Defaults{}.Requirements(pod)
}

// Requirements says what a pod needs of its instance: the effective request as
// the scheduler computes it, its annotations, its node selector and required
// node affinity. The error joins an *InvalidPodError for each thing that is
// wrong with the pod. The pod is not modified.
func (d Defaults) Requirements(pod *corev1.Pod) (v1beta1.Requirements, error) {
	requests := EffectiveRequests(pod)
	a, annotationErr := parseAnnotations(pod.Annotations)
	n, nodeErr := nodeConstraints(pod, d.Zone)
	req := v1beta1.Requirements{
		GPUModels:     a.gpuModels,
		Architectures: n.architectures,
		Zones:         n.zones,
		InstanceTypes: a.instanceTypes,
		CapacityTypes: a.capacityTypes,
		VolumeGiB:     a.volumeGiB,
	}
	errs := []error{annotationErr, nodeErr, checkResources(requests)}

	var err error
	if req.InstanceTypes, err = narrow(req.InstanceTypes, n.instanceTypes); err != nil {
		errs = append(errs, err)
	}
	if d.Zone != "" {
		if !matches(req.Zones, d.Zone) {
			errs = append(errs, &InvalidPodError{
				Field: "node selector or affinity on " + corev1.LabelTopologyZone, Value: orList(req.Zones),
				Allowed: "the virtual node's label says that all cells are in " + d.Zone,
			})
		}
		req.Zones = []string{d.Zone}
	}
	if err := errors.Join(errs...); err != nil {
		return v1beta1.Requirements{}, err
	}

	gpus := requests[ResourceGPU]
	req.GPUs = int32(gpus.Value())
	if len(req.GPUModels) > 0 && req.GPUs == 0 {
		req.GPUs = 1 // naming a model is asking for one
	}
	cpu, memory := requests.Cpu(), requests.Memory()
	if d.InstanceType != "" && cpu.IsZero() && memory.IsZero() && req.GPUs == 0 && len(req.InstanceTypes) == 0 {
		req.InstanceTypes = []string{d.InstanceType}
	}
	if len(req.Architectures) == 0 && !slices.ContainsFunc(req.InstanceTypes, isExact) {
		req.Architectures = slices.Clone(d.Architectures)
	}
	req.CPU, req.Memory = cpu.DeepCopy(), memory.DeepCopy()
	if cpu.IsZero() {
		req.CPU = *resource.NewMilliQuantity(DefaultCPUMillis, resource.DecimalSI)
	}
	if memory.IsZero() {
		req.Memory = *resource.NewQuantity(DefaultMemoryMiB<<20, resource.BinarySI)
	}
	if len(req.CapacityTypes) == 0 {
		req.CapacityTypes = slices.Clone(d.CapacityTypes)
	}
	if storage := requests.StorageEphemeral().Value(); storage > 0 {
		need := int32(min(roundUpGiB(storage)+rootReserveGiB, maxVolumeGiB))
		if need > cmp.Or(req.VolumeGiB, d.VolumeGiB, DefaultVolumeGiB) {
			req.VolumeGiB = need
		}
	}
	return req, nil
}

// ForImages narrows the architectures in a pod's requirements to those that its
// images are made for; images is empty if that is not known. Then a pod that
// names several architectures by itself is believed, and one that names none
// gets the first of the defaults.
func (d Defaults) ForImages(req *v1beta1.Requirements, pod *corev1.Pod, images []string) {
	both := slices.DeleteFunc(slices.Clone(req.Architectures), func(a string) bool { return !slices.Contains(images, a) })
	if len(both) > 0 {
		req.Architectures = both
		return
	}
	if n, err := nodeConstraints(pod, d.Zone); err == nil && len(n.architectures) == 0 && len(req.Architectures) > 1 {
		req.Architectures = req.Architectures[:1]
	}
}

// EffectiveRequests is the pod's request as the scheduler computes it: the
// larger of all containers with their sidecars together and of each init step,
// pod-level resources where given, and the overhead of the RuntimeClass.
//
// A limit without a request counts as a request. The API server fills that in,
// but a manifest that has not been there yet lacks it.
func EffectiveRequests(pod *corev1.Pod) corev1.ResourceList {
	pod = &corev1.Pod{Spec: *pod.Spec.DeepCopy()}
	for _, containers := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range containers {
			r := &containers[i].Resources
			r.Requests = defaultRequests(r.Requests, r.Limits, nil)
		}
	}
	if r := pod.Spec.Resources; r != nil {
		containers := resourcehelper.AggregateContainerRequests(pod, resourcehelper.PodResourcesOptions{})
		r.Requests = defaultRequests(r.Requests, r.Limits, containers)
	}
	return resourcehelper.PodRequests(pod, resourcehelper.PodResourcesOptions{})
}

// defaultRequests adds limits of resources that are neither requested nor
// covered.
func defaultRequests(requests, limits, covered corev1.ResourceList) corev1.ResourceList {
	for name, limit := range limits {
		_, requested := requests[name]
		_, isCovered := covered[name]
		if requested || isCovered {
			continue
		}
		if requests == nil {
			requests = corev1.ResourceList{}
		}
		requests[name] = limit
	}
	return requests
}

// checkResources refuses what no cell has, instead of launching an instance on
// which the kubelet would refuse the pod.
func checkResources(requests corev1.ResourceList) error {
	var errs []error
	for _, name := range slices.Sorted(maps.Keys(requests)) {
		q := requests[name]
		switch name {
		case corev1.ResourceCPU, corev1.ResourceMemory, corev1.ResourceEphemeralStorage, corev1.ResourcePods:
			if q.Sign() < 0 {
				errs = append(errs, &InvalidPodError{Field: "request of " + string(name), Value: q.String(), Allowed: "must not be negative"})
			}
		case ResourceGPU:
			if q.Sign() < 0 || q.Value() > maxGPUs || q.MilliValue()%1000 != 0 {
				errs = append(errs, &InvalidPodError{Field: "request of " + string(name), Value: q.String(), Allowed: "must be a whole number of GPUs"})
			}
		default:
			if !q.IsZero() {
				errs = append(errs, &InvalidPodError{
					Field: "request of " + string(name), Value: q.String(),
					Allowed: "cells have cpu, memory, ephemeral-storage and " + string(ResourceGPU),
				})
			}
		}
	}
	return errors.Join(errs...)
}

// maxGPUs is far above any instance's, and keeps the number in its type.
const maxGPUs = 1 << 20

// narrow keeps of the type names in a node selector those that the annotation
// accepts as well.
func narrow(annotated, selected []string) ([]string, error) {
	if len(annotated) == 0 || len(selected) == 0 {
		return slices.Concat(annotated, selected), nil
	}
	var kept []string
	exact := false
	for _, s := range selected {
		switch {
		case strings.HasPrefix(s, "!"):
			kept = append(kept, s)
		case matches(annotated, s):
			kept, exact = append(kept, s), true
		}
	}
	if exact {
		return kept, nil
	}
	if len(kept) == len(selected) { // exclusions only
		return slices.Concat(annotated, kept), nil
	}
	return nil, &InvalidPodError{
		Field: "annotation " + AnnotationInstanceType, Value: strings.Join(annotated, ","),
		Allowed: "the pod's node selector or affinity asks for " + orList(selected),
	}
}
