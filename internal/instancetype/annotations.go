package instancetype

import (
	"errors"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Annotations of pods that this package acts upon.
const (
	// AnnotationInstanceType: names or globs, separated by commas; a leading
	// "!" excludes: "m6i.*, m7i.*, !*.large".
	AnnotationInstanceType = "pod.elotl.co/instance-type"

	// AnnotationLaunchType: how the instance is bought; see CapacityTypes.
	AnnotationLaunchType = "pod.elotl.co/launch-type"

	// AnnotationVolumeSize: of the root volume, a quantity ("100Gi") or a
	// number of GiB ("100").
	AnnotationVolumeSize = "pod.elotl.co/volume-size"

	// AnnotationGPUType: GPU models as names or globs, separated by commas:
	// "T4, L4".
	AnnotationGPUType = "pod.elotl.co/gpu-type"
)

// maxPatterns bounds what is compared with every instance type for every pod:
// a pod is somebody's input.
const maxPatterns = 100

// maxVolumeGiB is the size limit of a gp3 volume, 64 TiB.
const maxVolumeGiB = 64 << 10

// annotations is what the pod says about its instance.
type annotations struct {
	instanceTypes []string
	gpuModels     []string
	capacityTypes []v1beta1.CapacityType
	volumeGiB     int32
}

// parseAnnotations joins an *InvalidPodError for each bad value.
func parseAnnotations(m map[string]string) (annotations, error) {
	var a annotations
	var errs []error
	refuse := func(name, value, allowed string) {
		errs = append(errs, &InvalidPodError{Field: "annotation " + name, Value: value, Allowed: allowed})
	}

	if v, ok := m[AnnotationInstanceType]; ok {
		var bad string
		if a.instanceTypes, bad = parsePatterns(strings.ToLower(v)); bad != "" {
			refuse(AnnotationInstanceType, v, `must be instance types or globs, separated by commas, such as "t3.small" or "m6i.*, m7i.*"; `+bad)
		}
	}
	if v, ok := m[AnnotationGPUType]; ok {
		var bad string
		if a.gpuModels, bad = parsePatterns(v); bad != "" {
			refuse(AnnotationGPUType, v, `must be GPU models or globs, separated by commas, such as "T4" or "L4*"; `+bad)
		}
	}
	if v, ok := m[AnnotationLaunchType]; ok {
		if a.capacityTypes, ok = CapacityTypes(strings.ToLower(strings.TrimSpace(v))); !ok {
			refuse(AnnotationLaunchType, v, "must be "+LaunchTypes)
		}
	}
	if v, ok := m[AnnotationVolumeSize]; ok {
		if a.volumeGiB, ok = parseVolumeGiB(v); !ok {
			refuse(AnnotationVolumeSize, v, `must be a size from 1Gi to 64Ti such as "100Gi", or a whole number of GiB such as "100"`)
		}
	}
	return a, errors.Join(errs...)
}

// LaunchTypes are the values that CapacityTypes knows, for errors.
const LaunchTypes = "on-demand, spot or spot-preferred"

// CapacityTypes says what a launch type accepts, as written in the annotation
// and in cells.defaultLaunchType; ok is false if there is no such launch type.
// Only spot-preferred, by its name, allows on-demand besides spot.
func CapacityTypes(launchType string) (accepted []v1beta1.CapacityType, ok bool) {
	switch launchType {
	case "on-demand":
		return []v1beta1.CapacityType{v1beta1.OnDemand}, true
	case "spot":
		return []v1beta1.CapacityType{v1beta1.Spot}, true
	case "spot-preferred":
		return []v1beta1.CapacityType{v1beta1.Spot, v1beta1.OnDemand}, true
	}
	return nil, false
}

// parsePatterns splits at commas. bad says what is wrong, if anything.
func parsePatterns(value string) (patterns []string, bad string) {
	for p := range strings.SplitSeq(value, ",") {
		p = strings.TrimSpace(p)
		if err := checkPattern(p); err != nil {
			return nil, err.Error()
		}
		if len(patterns) == maxPatterns {
			return nil, fmt.Sprintf("at most %d of them", maxPatterns)
		}
		if !slices.Contains(patterns, p) {
			patterns = append(patterns, p)
		}
	}
	return patterns, ""
}

// parseVolumeGiB rounds up to whole GiB.
func parseVolumeGiB(value string) (int32, bool) {
	value = strings.TrimSpace(value)
	if n, err := strconv.ParseInt(value, 10, 32); err == nil {
		return int32(n), n >= 1 && n <= maxVolumeGiB
	}
	// Comparing a quantity such as 1e999999999 would keep this process busy
	// for ever: no exponents, no endless numbers.
	if len(value) > 20 || strings.ContainsAny(value, "eE") {
		return 0, false
	}
	q, err := resource.ParseQuantity(value)
	if err != nil || q.Sign() <= 0 || q.CmpInt64(maxVolumeGiB<<30) > 0 {
		return 0, false
	}
	return int32(roundUpGiB(q.Value())), true
}

// roundUpGiB is for quantities, which saturate at MaxInt64.
func roundUpGiB(bytes int64) int64 {
	if bytes > math.MaxInt64-1<<30 {
		return bytes >> 30
	}
	return (bytes + 1<<30 - 1) >> 30
}
