package instancetype

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

// NoFitError says that no offering holds the pod. Its text is written for the
// pod's owner.
type NoFitError struct {
	Message string
	// RetryAt is set if the only thing in the way is that the cloud refused
	// what fits a short while ago: then the same question may have an answer
	// from this time on. Zero if the pod or the catalogue must change first.
	RetryAt time.Time
}

func (e *NoFitError) Error() string { return e.Message }

// UnknownTypeError says that a region does not offer an instance type.
type UnknownTypeError struct {
	Type   string
	Region *Region
}

func (e *UnknownTypeError) Error() string {
	if _, exists := e.Region.catalogue.types[e.Type]; exists {
		return fmt.Sprintf("instance type %q is not offered in %s", e.Type, e.Region.Name)
	}
	s := fmt.Sprintf("instance type %q is unknown", e.Type)
	names := make([]string, len(e.Region.entries))
	for i := range e.Region.entries {
		names[i] = e.Region.entries[i].Name
	}
	if like := closest(e.Type, names, 3); len(like) > 0 {
		s += ": did you mean " + orList(like) + "?"
	}
	return s
}

// noFit says what is in the way.
func (q *query) noFit(result Result) *NoFitError {
	if s := q.unknownTypes(); s != "" {
		return &NoFitError{Message: s}
	}
	var causes []string
	e := &NoFitError{}
	for _, o := range result.RuledOut {
		switch o.Reason {
		case ReasonNotAskedFor, ReasonArchitecture, ReasonBareMetal, ReasonOldPlatform, ReasonAddresses:
			// What is true of any pod, or said by the pod itself, is no news,
			// unless it is all there is.
			if len(result.RuledOut) > 1 {
				continue
			}
		case ReasonUnavailable:
			e.RetryAt = q.firstReturn()
		}
		causes = append(causes, fmt.Sprintf("%d: %s", o.Count, o.Message))
	}
	if len(causes) == 0 {
		for _, o := range result.RuledOut {
			causes = append(causes, fmt.Sprintf("%d: %s", o.Count, o.Message))
		}
	}
	e.Message = fmt.Sprintf("no instance type in %s fits a pod that requests %s; of %d types, %s",
		q.region.Name, q.describe(), result.Considered, strings.Join(causes, "; "))
	return e
}

// unknownTypes is about the instance types that the pod names, if none of them
// is offered here.
func (q *query) unknownTypes() string {
	if !slices.ContainsFunc(q.req.InstanceTypes, func(p string) bool { return !strings.HasPrefix(p, "!") }) {
		return ""
	}
	for i := range q.region.entries {
		if q.asked(&q.region.entries[i]) {
			return ""
		}
	}
	var all []string
	for _, p := range q.req.InstanceTypes {
		switch {
		case isExact(p):
			all = append(all, (&UnknownTypeError{Type: p, Region: q.region}).Error())
		case !strings.HasPrefix(p, "!"):
			all = append(all, fmt.Sprintf("no instance type in %s matches %q", q.region.Name, p))
		}
	}
	return strings.Join(all, "; ")
}

// firstReturn is when the first of the offerings that fit, but for having been
// refused, may be tried again.
func (q *query) firstReturn() time.Time {
	var first time.Time
	for k, until := range q.unavailable {
		e, ok := q.region.byName[k.InstanceType]
		if !ok {
			continue
		}
		if i := q.firstFailed(e); i < 0 || checks[i].reason != ReasonUnavailable {
			continue
		}
		relevant := slices.Contains(q.capacityTypes, k.CapacityType) &&
			slices.ContainsFunc(q.zones, func(z zone) bool { return z.name == k.Zone })
		if relevant && (first.IsZero() || until.Before(first)) {
			first = until
		}
	}
	return first
}

// describe is the request in words.
func (q *query) describe() string {
	s := formatCPU(q.cpuMillis) + " and " + formatMiB(q.memoryMiB) + " of memory"
	if q.req.GPUs > 0 {
		s += " and " + plural(strconv.Itoa(int(q.req.GPUs)), "GPU")
	}
	return s
}

// formatCPU is "0.5 vCPUs", "1 vCPU".
func formatCPU(millis int64) string {
	return plural(strconv.FormatFloat(float64(millis)/1000, 'f', -1, 64), "vCPU")
}

func plural(number, noun string) string {
	if number != "1" {
		noun += "s"
	}
	return number + " " + noun
}

// formatMiB chooses the unit that leaves at most two decimals.
func formatMiB(mib int64) string {
	for _, u := range []struct {
		name string
		mib  int64
	}{{"TiB", 1 << 20}, {"GiB", 1 << 10}} {
		if mib >= u.mib {
			return strconv.FormatFloat(float64(mib*100/u.mib)/100, 'f', -1, 64) + " " + u.name
		}
	}
	return strconv.FormatInt(mib, 10) + " MiB"
}
