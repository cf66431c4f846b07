package cloudprovider

import (
	"errors"
	"strings"
	"time"
)

// Kind says what a failed call means for the caller. There is one kind per
// reaction, however many codes a cloud has for it.
type Kind string

const (
	// InsufficientCapacity: the cloud has none of this offering just now.
	// Try another one; this one again in some minutes.
	InsufficientCapacity Kind = "InsufficientCapacity"
	// SubnetFull: no free address where the instance was to go. Other zones,
	// as Zones lists them, may have some.
	SubnetFull Kind = "SubnetFull"
	// QuotaExceeded: the account's own limit. Other offerings may count
	// against another limit; only people can raise it.
	QuotaExceeded Kind = "QuotaExceeded"
	// VCPUQuotaExceeded: the account's limit on the vCPUs of this capacity type.
	// Smaller instance types may still fit, and other capacity types.
	VCPUQuotaExceeded Kind = "VCPUQuotaExceeded"
	// Throttled: too many requests. The same request, later.
	Throttled Kind = "Throttled"
	// Denied: the credentials are missing, wrong or lack a right. Error.Action
	// names it.
	Denied Kind = "Denied"
	// Unsupported: this offering cannot do what was asked (not in this zone,
	// not with this image). Try another one.
	Unsupported Kind = "Unsupported"
	// InvalidConfiguration: something that people configured is wrong or does
	// not exist: an image, a subnet, a security group, an instance profile.
	InvalidConfiguration Kind = "InvalidConfiguration"
	// NotFound: the cloud does not know the instance.
	NotFound Kind = "NotFound"
	// Terminated: the instance of this ClientToken was terminated.
	Terminated Kind = "Terminated"
	// TokenConflict: the ClientToken was used before with other parameters
	// (the configuration changed in between), and no instance of it can be
	// seen. One may exist.
	TokenConflict Kind = "TokenConflict"
	// Transient is everything else: no answer, the cloud's own errors, codes
	// that nobody classified. The same request, soon. After Create an instance
	// may exist.
	Transient Kind = "Transient"
)

// Definite reports that a Create that failed so launched nothing by itself and
// will not.
func (k Kind) Definite() bool {
	switch k {
	case InsufficientCapacity, SubnetFull, QuotaExceeded, VCPUQuotaExceeded, Throttled, Denied, Unsupported, InvalidConfiguration:
		return true
	}
	return false
}

// Error is a failed call to the cloud.
type Error struct {
	Kind Kind
	// Action is the API action in the words of the cloud's access policies,
	// such as "ec2:RunInstances".
	Action string
	// Code and Message are the cloud's own; Code is empty when no answer came.
	Code    string
	Message string
	// RetryAfter is when the same request may come again, if that is known.
	RetryAfter time.Duration
	// Err is the cause, for errors.Is and errors.As; may be nil.
	Err error
}

// Error is one line that a user can read.
func (e *Error) Error() string {
	var b strings.Builder
	b.WriteString(e.Action)
	if e.Action != "" {
		b.WriteString(": ")
	}
	switch {
	case e.Code != "" && e.Message != "":
		b.WriteString(e.Code + ": " + e.Message)
	case e.Code != "":
		b.WriteString(e.Code)
	case e.Message != "":
		b.WriteString(e.Message)
	case e.Err != nil:
		b.WriteString(e.Err.Error())
	default:
		b.WriteString(string(e.Kind))
	}
	return b.String()
}

func (e *Error) Unwrap() error { return e.Err }

// KindOf finds the kind of an error, looking through wrapping. Errors that
// carry none, those of contexts among them, are Transient; nil has none ("").
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	if e, ok := errors.AsType[*Error](err); ok && e.Kind != "" {
		return e.Kind
	}
	return Transient
}

// ErrRouteTaken is the cause of an Error when a network is routed to something
// else, which Kip leaves as it is.
var ErrRouteTaken = errors.New("the network is routed to something else")

// Held reports that the cloud was not asked, since the request would have come
// too soon.
func Held(err error) bool {
	e, ok := errors.AsType[*Error](err)
	return ok && e.Kind == Throttled && e.Code == ""
}

// RetryAfter is when the same request may come again, 0 if that is not known.
func RetryAfter(err error) time.Duration {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.RetryAfter
	}
	return 0
}

// IsNotFound reports that the cloud does not know the instance.
func IsNotFound(err error) bool { return KindOf(err) == NotFound }
