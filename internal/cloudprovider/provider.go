package cloudprovider

import (
	"context"
	"time"

	"k8s.io/apimachinery/pkg/api/resource"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// Provider launches, finds and terminates the instances of one controller. All
// methods are safe for concurrent use. Their errors are *Error, but for those
// of an ended context: see KindOf.
type Provider interface {
	// Create launches one instance, or returns the one that an earlier call
	// with the same ClientToken launched. It returns as soon as the cloud has
	// accepted the launch; the instance has its ID and its private addresses
	// then, and is usually Pending.
	//
	// When the error's kind is Definite, this call launched nothing and will
	// not; it says nothing of an earlier call with the same token that had no
	// answer. A token that failed so must not be used for another request.
	// After any other error an instance may exist: repeat the call with the
	// same token, or find it in List by its token. Terminated means that the
	// token's instance existed and was terminated; an implementation may
	// return that instance instead, with its state.
	//
	// Called by the lifecycle controller only, after it wrote req.Launch down.
	Create(ctx context.Context, req LaunchRequest) (*Instance, error)

	// Get reads one instance. NotFound: the cloud does not know it (yet, or
	// any more), or it is not ours. A terminated instance that the cloud still
	// remembers is returned, with that state.
	Get(ctx context.Context, id string) (*Instance, error)

	// List reads all instances of this controller that the cloud still knows,
	// terminated ones included, in no particular order. It costs one (paged)
	// request whatever the number of instances.
	List(ctx context.Context) ([]Instance, error)

	// Delete asks the cloud to terminate the instance and returns when it
	// agreed, not when the instance is gone. It returns nil for an instance
	// that is already being terminated or is terminated, and NotFound for one
	// that the cloud does not know: it is gone, or too young to be seen.
	Delete(ctx context.Context, id string) error
}

// CellsAtOnce is the most Cells that ListCells is asked about.
const CellsAtOnce = 100

// CellLister is an optional ability of a Provider: where there are thousands of
// instances it is cheaper to look at those of which something is expected.
type CellLister interface {
	// ListCells is List of the instances of some Cells, at most CellsAtOnce. It
	// costs one request.
	ListCells(ctx context.Context, cells []types.UID) ([]Instance, error)
}

// ZoneLister is an optional ability of a Provider.
type ZoneLister interface {
	// Zones returns the zones in which an instance can be launched just now,
	// sorted. A zone whose subnets were found full is missing from the answer
	// until addresses may be free again. It answers from memory but for a
	// refresh every few minutes.
	Zones(ctx context.Context) ([]string, error)
}

// Router is an optional ability of a Provider: it sends networks that are not
// the cloud's own to instances. A route is ours if it leads to the network
// interface of one of our instances; only such routes are ever removed.
type Router interface {
	// EnsureRoutes makes the networks (canonical CIDRs) lead to the instance
	// from wherever cells may run, and lets the instance forward for them. It
	// answers from memory while nothing is missing, but for a refresh now and
	// then. A network that something else is reached by already is left as it
	// is; the error is ErrRouteTaken then, and the others are routed all the
	// same. The instance must be running.
	//
	// Called after the target was written down, by which RemoveRoutes will
	// find what a killed caller made.
	EnsureRoutes(ctx context.Context, to RouteTarget, networks []string) error

	// RemoveRoutes removes all routes to the instance, which may be gone. It
	// returns nil after a look that found none, or the removal of all it found.
	RemoveRoutes(ctx context.Context, to RouteTarget) error
}

// RouteTarget is where a route leads.
type RouteTarget struct {
	InstanceID string
	// NetworkInterface is the instance's. A route keeps it when the instance
	// is gone.
	NetworkInterface string
}

// Sweeper is an optional ability of a Provider: it finds what is left in the
// cloud of instances and of this controller, beside instances themselves.
type Sweeper interface {
	// Leftovers returns what carries this controller's mark and belongs to
	// nothing any more, as far as it could be read: an error does not mean that
	// there is none. What was made a moment ago may be among it. It costs a few
	// (paged) requests whatever the number of instances.
	Leftovers(ctx context.Context) ([]Leftover, error)

	// RemoveLeftover removes one that Leftovers returned a moment ago. It returns
	// nil if it is gone already. Kip can do without some of the rights: if the
	// error is Denied, nobody may have been told.
	RemoveLeftover(ctx context.Context, l Leftover) error
}

// LeftoverKind is what is left.
type LeftoverKind string

const (
	LeftVolume    LeftoverKind = "volume"
	LeftInterface LeftoverKind = "network-interface"
	LeftRoute     LeftoverKind = "route"
	LeftGroup     LeftoverKind = "security-group"
)

// Leftover is one thing that is left.
type Leftover struct {
	Kind LeftoverKind
	// ID tells it from others of its kind, for people too.
	ID string
	// CellName is the cell that it was made for, if that is known.
	CellName string
	// NetworkInterface is the one that it is, or leads to.
	NetworkInterface string
}

// RegistryAuthorizer is an optional ability of a Provider: it can log in to the
// cloud's own image registries.
type RegistryAuthorizer interface {
	// RegistryLogin returns what logs in to the image registry of that host, or
	// nil if the host is no registry of the cloud's, or one that is open to
	// everybody. It answers from memory while an earlier login is good, and
	// for some seconds with the same error. The login carries Kip's own rights
	// to pull, whatever the image: the caller decides who may have it.
	RegistryLogin(ctx context.Context, host string) (*RegistryLogin, error)
}

// RegistryLogin is a user name and password for an image registry.
type RegistryLogin struct {
	Username, Password string
	// Expires is when the registry refuses it.
	Expires time.Time
}

// HealthReporter is an optional ability of a Provider: the cloud looks after its
// machines, and says what it finds.
type HealthReporter interface {
	// Health returns what is known against running instances, and no others;
	// instances of somebody else may be among them. It costs a few (paged)
	// requests whatever the number of instances. Kip can do without: if the
	// error is Denied, nobody was told that a right lacks.
	Health(ctx context.Context) ([]InstanceHealth, error)
}

// InstanceHealth is what the cloud knows against an instance.
type InstanceHealth struct {
	ID string
	// Impaired: a check of the instance, or of what is beneath it, fails. One
	// that has not been made yet does not.
	Impaired bool
	// Events are what the cloud will do to it, by itself and in times of which
	// it says only the beginning.
	Events []ScheduledEvent
}

// ScheduledEvent is something that the cloud will do to an instance.
type ScheduledEvent struct {
	ID string
	// Code is the cloud's word, such as "instance-retirement".
	Code        string
	Description string
	// NotBefore is when it begins at the earliest.
	NotBefore time.Time
}

// ConsoleReader is an optional ability of a Provider: it shows what an instance
// writes to its console, for people to find out why it does not boot.
type ConsoleReader interface {
	// Console returns the last of it that the cloud has, as it was written: up
	// to some ten kilobytes, of anything. It may be empty, and it may be asked for
	// an instance that is terminated. Kip can do without: if the error is Denied,
	// nobody was told that a right lacks.
	Console(ctx context.Context, id string) (string, error)
}

// Stopper is an optional ability of a Provider: an instance of which no more than
// the disk is paid for, and which keeps that and its private addresses.
type Stopper interface {
	// Stop asks the cloud to stop the instance and returns when it agreed. It
	// returns nil for an instance that is stopped or being stopped already. Spot
	// instances are Unsupported. Kip can do without the right: Denied is the
	// caller's to bear.
	Stop(ctx context.Context, id string) error

	// Start asks the cloud to start a stopped instance and returns when it agreed.
	// It returns nil for an instance that runs or is about to, and Transient for
	// one that is still being stopped. After a Definite error the instance stays
	// stopped; InsufficientCapacity is one of them. After any other it may start.
	//
	// Both are NotFound for an instance that the cloud does not know. They are
	// called by the lifecycle controller only, after the wish was written down.
	Start(ctx context.Context, id string) error
}

// ArchitectureLister is an optional ability of a Provider.
type ArchitectureLister interface {
	// Architectures returns those, in Kubernetes' words, for which there is a
	// machine image, sorted. It answers from memory as Zones does.
	Architectures(ctx context.Context) ([]string, error)
}

// Pacer is an optional ability of a Provider that launches no faster than the
// cloud lets it.
type Pacer interface {
	// Turn returns nil when a Create for the cell would be made at once, and
	// keeps that turn for it for half a minute. Otherwise the error is
	// Throttled with RetryAfter; the cell keeps its place in the line if Turn or
	// Create are called again about then. It may block for a second. Create
	// waits by itself, so Turn is for who wants to decide what to launch only
	// when it can be.
	Turn(ctx context.Context, cell types.UID) error
}

// LaunchRequest is everything that an instance is made of. Two requests with
// the same ClientToken are the same request.
type LaunchRequest struct {
	// ClientToken makes Create idempotent; at most 64 ASCII characters.
	ClientToken string

	CellName string
	CellUID  types.UID
	// Pod is nil for a standby cell.
	Pod *v1beta1.PodReference

	// Launch is the offering: instance type, zone (empty: any), capacity type,
	// architecture.
	Launch v1beta1.LaunchStatus

	// UserData is what the instance reads about itself; not encoded, and not
	// secret.
	UserData []byte

	// VolumeGiB is the size of the root volume; 0 means the provider's default.
	VolumeGiB int32

	// CPU is the pod's effective request, by which the provider decides how a
	// burstable instance may use CPU above its baseline.
	CPU resource.Quantity

	Instance v1beta1.InstanceSettings
}

// State is where the cloud says that an instance is.
type State string

const (
	StatePending      State = "pending"
	StateRunning      State = "running"
	StateStopping     State = "stopping"
	StateStopped      State = "stopped"
	StateShuttingDown State = "shutting-down"
	StateTerminated   State = "terminated"
)

// Alive reports that the instance runs or is about to.
func (s State) Alive() bool { return s == StatePending || s == StateRunning }

// Instance is one machine as the cloud sees it.
type Instance struct {
	ID string

	// CellName, CellUID and ClientToken are what the instance was launched
	// with. CellUID, not the name, says whose it is.
	CellName    string
	CellUID     types.UID
	ClientToken string

	State State
	// StateReason is the cloud's word for why it is stopped or terminated.
	StateReason string

	InstanceType string
	Zone         string
	CapacityType v1beta1.CapacityType

	// PrimaryIP is the instance's own address and PodIP the pod's, both
	// private; empty once terminated. PublicIP may come some seconds later
	// than the others, or never.
	PrimaryIP string
	PodIP     string
	PublicIP  string
	// NetworkInterface is the one with these addresses.
	NetworkInterface string

	LaunchTime time.Time
}
