package limits

import (
	"fmt"
	"strconv"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// EveryNamespace is the name of the limits of each namespace that has none of
// its own.
const EveryNamespace = "*"

// Limits are what Kip may have at one time. What is nil is not limited.
type Limits struct {
	Caps
	// LaunchesPerMinute is how many instances may be launched in any minute.
	LaunchesPerMinute *int
	// Namespaces are the caps of single namespaces, beside those of all.
	Namespaces map[string]Caps
}

// Caps bound instances and what they cost together in an hour.
type Caps struct {
	Instances *int
	// HourlyMicroUSD is in millionths of a dollar: sums of them are exact.
	HourlyMicroUSD *int64
}

func (c Caps) none() bool { return c.Instances == nil && c.HourlyMicroUSD == nil }

// any reports whether something is limited.
func (l Limits) any() bool {
	limited := !l.none() || l.LaunchesPerMinute != nil
	for _, c := range l.Namespaces {
		limited = limited || !c.none()
	}
	return limited
}

// of returns the caps of a namespace. Standby cells have none ("").
func (l Limits) of(namespace string) Caps {
	if namespace == "" {
		return Caps{}
	}
	if c, ok := l.Namespaces[namespace]; ok {
		return c
	}
	return l.Namespaces[EveryNamespace]
}

// Limit names what was reached; metrics are labelled with it.
type Limit string

const (
	Instances          Limit = "instances"
	HourlyUSD          Limit = "hourlyUSD"
	LaunchesPerMinute  Limit = "launchesPerMinute"
	NamespaceInstances Limit = "namespaceInstances"
	NamespaceHourlyUSD Limit = "namespaceHourlyUSD"
)

// Reached is the refusal of a launch. It reads the same while it lasts, so that
// a Cell that waits is not written again and again.
type Reached struct {
	Limit Limit
	// Message is a sentence for the pod's owner.
	Message string
	// RetryAfter is when the launch can be expected to be possible, 0 if that
	// depends on others.
	RetryAfter time.Duration
}

// MicroUSD is the price of a launch. Kip wrote it there; what it cannot read is
// no price of its own, and counts nothing.
func MicroUSD(l *v1beta1.LaunchStatus) int64 {
	if l == nil {
		return 0
	}
	return microUSD(l.HourlyUSD)
}

func microUSD(price string) int64 {
	usd, err := strconv.ParseFloat(price, 64)
	if err != nil || usd < 0 {
		return 0
	}
	return int64(usd*1e6 + 0.5)
}

func dollars(micros int64) string { return strconv.FormatFloat(float64(micros)/1e6, 'f', -1, 64) }

// refusal words what was reached.
func refusal(limit Limit, namespace string, ask, allowed int64) *Reached {
	r := &Reached{Limit: limit}
	switch limit {
	case Instances:
		r.Message = fmt.Sprintf("there are as many instances as cells.limits.instances allows, %d; the launch waits until one has ended", allowed)
	case HourlyUSD:
		r.Message = fmt.Sprintf("with another %s USD per hour there would be more than cells.limits.hourlyUSD allows, %s; the launch waits until enough have ended",
			dollars(ask), dollars(allowed))
	case NamespaceInstances:
		r.Message = fmt.Sprintf("namespace %s has as many instances as cells.limits.namespaces allows it, %d; the launch waits until one has ended", namespace, allowed)
	case NamespaceHourlyUSD:
		r.Message = fmt.Sprintf("with another %s USD per hour namespace %s would have more than cells.limits.namespaces allows it, %s; the launch waits until enough have ended",
			dollars(ask), namespace, dollars(allowed))
	case LaunchesPerMinute:
		r.Message = fmt.Sprintf("as many instances were launched within a minute as cells.limits.launchesPerMinute allows, %d; the launch waits for its turn", allowed)
	}
	return r
}
