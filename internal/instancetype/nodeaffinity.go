package instancetype

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// constraints is what node selector and required node affinity say about the
// instance. Empty lists mean no restriction; zones and types may be patterns
// that exclude.
type constraints struct {
	architectures []string
	zones         []string
	instanceTypes []string
}

// instanceLabels are the node labels that are the instance's doing, by the
// name used here. All others are the virtual node's, which the scheduler has
// matched already.
var instanceLabels = map[string]string{
	corev1.LabelArchStable:            corev1.LabelArchStable,
	corev1.LabelOSStable:              corev1.LabelOSStable,
	corev1.LabelTopologyZone:          corev1.LabelTopologyZone,
	corev1.LabelInstanceTypeStable:    corev1.LabelInstanceTypeStable,
	"beta.kubernetes.io/arch":         corev1.LabelArchStable,
	"beta.kubernetes.io/os":           corev1.LabelOSStable,
	corev1.LabelFailureDomainBetaZone: corev1.LabelTopologyZone,
	corev1.LabelInstanceType:          corev1.LabelInstanceTypeStable,
}

// InstanceLabel returns the present name of a node label whose value is the
// instance's doing, "" for every other label. What a pod demands of these its
// instance fulfils.
func InstanceLabel(key string) string { return instanceLabels[key] }

// values is a set of label values: allowed (any if nil) without excluded.
type values struct {
	allowed  []string
	excluded []string
}

// intersect narrows v by w.
func (v values) intersect(w values) values {
	out := values{excluded: slices.Concat(v.excluded, w.excluded)}
	switch {
	case v.allowed == nil:
		out.allowed = w.allowed
	case w.allowed == nil:
		out.allowed = v.allowed
	default:
		out.allowed = []string{}
		for _, a := range v.allowed {
			if slices.Contains(w.allowed, a) {
				out.allowed = append(out.allowed, a)
			}
		}
	}
	return out
}

// patterns is the set as patterns. It is empty if there is no restriction;
// possible is false if nothing is in the set.
func (v values) patterns() (p []string, possible bool) {
	if v.allowed == nil {
		for _, x := range v.excluded {
			p = append(p, "!"+x)
		}
		slices.Sort(p)
		return slices.Compact(p), true
	}
	for _, a := range v.allowed {
		if !slices.Contains(v.excluded, a) {
			p = append(p, a)
		}
	}
	slices.Sort(p)
	return slices.Compact(p), len(p) > 0
}

// holds says whether the value is in the set.
func (v values) holds(value string) bool {
	return (v.allowed == nil || slices.Contains(v.allowed, value)) && !slices.Contains(v.excluded, value)
}

// nodeConstraints joins an *InvalidPodError for each label whose demands no
// instance can meet. The zone is the virtual node's, if it has one.
func nodeConstraints(pod *corev1.Pod, zone string) (constraints, error) {
	sets := map[string]values{}
	for label, value := range pod.Spec.NodeSelector {
		if key, ok := instanceLabels[label]; ok {
			sets[key] = sets[key].intersect(values{allowed: []string{value}})
		}
	}
	var errs []error
	if a := pod.Spec.Affinity; a != nil && a.NodeAffinity != nil && a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution != nil {
		fromTerms, err := termValues(a.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms, zone)
		errs = append(errs, err)
		for key, v := range fromTerms {
			sets[key] = sets[key].intersect(v)
		}
	}

	var c constraints
	for _, l := range []struct {
		label   string
		allowed string
		into    *[]string
	}{
		{corev1.LabelOSStable, "cells run linux", nil},
		{corev1.LabelArchStable, "cells are amd64 or arm64", &c.architectures},
		{corev1.LabelTopologyZone, "no zone meets all that the pod demands of it", &c.zones},
		{corev1.LabelInstanceTypeStable, "no instance type meets all that the pod demands of it", &c.instanceTypes},
	} {
		set, ok := sets[l.label]
		if !ok {
			continue
		}
		// The values of these two are known, so that an exclusion can be
		// turned into what is left.
		switch l.label {
		case corev1.LabelOSStable:
			set = set.intersect(values{allowed: []string{"linux"}})
		case corev1.LabelArchStable:
			set = set.intersect(values{allowed: []string{AMD64, ARM64}})
		}
		patterns, possible := set.patterns()
		if !possible {
			errs = append(errs, &InvalidPodError{
				Field: "node selector or affinity on " + l.label, Value: sets[l.label].String(), Allowed: l.allowed,
			})
			continue
		}
		if len(patterns) > maxPatterns {
			errs = append(errs, &InvalidPodError{
				Field: "node selector or affinity on " + l.label, Value: fmt.Sprintf("%d values", len(patterns)),
				Allowed: fmt.Sprintf("at most %d", maxPatterns),
			})
			continue
		}
		if l.into != nil {
			*l.into = patterns
		}
	}
	if pod.Spec.OS != nil && pod.Spec.OS.Name != corev1.Linux {
		errs = append(errs, &InvalidPodError{Field: "spec.os.name", Value: string(pod.Spec.OS.Name), Allowed: "cells run linux"})
	}
	return c, errors.Join(errs...)
}

// String shows the set in errors.
func (v values) String() string {
	s := strings.Join(v.allowed, " and ")
	if v.allowed != nil && s == "" {
		s = "contradicting values"
	}
	if len(v.excluded) > 0 {
		s = strings.TrimSpace(s + " not " + strings.Join(v.excluded, ", "))
	}
	return s
}

// termValues is what the terms, of which any one suffices, say together.
//
// Terms that all restrict one and the same label are joined exactly. A term
// that restricts none of the labels lets everything through. Anything else is
// decided for the first term: all terms would do, one has to be taken. Terms
// that the virtual node's zone does not meet are not those by which the pod was
// scheduled.
func termValues(terms []corev1.NodeSelectorTerm, zone string) (map[string]values, error) {
	var sets []map[string]values
	for i := range terms {
		s, err := expressionValues(terms[i].MatchExpressions)
		if err != nil {
			return nil, err
		}
		if len(s) == 0 {
			return nil, nil
		}
		sets = append(sets, s)
	}
	if len(sets) == 0 {
		return nil, nil
	}
	met := slices.DeleteFunc(slices.Clone(sets), func(s map[string]values) bool {
		return zone != "" && !s[corev1.LabelTopologyZone].holds(zone)
	})
	if len(met) > 0 { // else the zone contradicts the pod, which is said elsewhere
		sets = met
	}
	first := sets[0]
	joined, ok := join(sets)
	if ok {
		return joined, nil
	}
	return first, nil
}

// join is the union of sets that restrict one and the same label to values.
func join(sets []map[string]values) (map[string]values, bool) {
	var label string
	var union values
	for _, s := range sets {
		if len(s) != 1 {
			return nil, false
		}
		for key, v := range s {
			if label != "" && label != key || v.allowed == nil || len(v.excluded) > 0 {
				return nil, false
			}
			label = key
			union.allowed = append(union.allowed, v.allowed...)
		}
	}
	return map[string]values{label: union}, true
}

// expressionValues is what the expressions, which must all hold, say about the
// instance's labels.
func expressionValues(expressions []corev1.NodeSelectorRequirement) (map[string]values, error) {
	sets := map[string]values{}
	for _, e := range expressions {
		key, ok := instanceLabels[e.Key]
		if !ok {
			continue
		}
		var v values
		switch e.Operator {
		case corev1.NodeSelectorOpIn:
			v.allowed = slices.Clone(e.Values)
			if v.allowed == nil {
				v.allowed = []string{}
			}
		case corev1.NodeSelectorOpNotIn:
			v.excluded = e.Values
		case corev1.NodeSelectorOpExists:
			continue // every instance has these labels
		default:
			return nil, &InvalidPodError{
				Field: "node affinity on " + e.Key, Value: string(e.Operator),
				Allowed: fmt.Sprintf("the operator must be %s, %s or %s",
					corev1.NodeSelectorOpIn, corev1.NodeSelectorOpNotIn, corev1.NodeSelectorOpExists),
			}
		}
		sets[key] = sets[key].intersect(v)
	}
	return sets, nil
}
