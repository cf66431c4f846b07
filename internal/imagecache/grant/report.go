package grant

// ReportPath is where a cell tells Kip that it did without the cache, with a
// POST of a Report.
const ReportPath = "/kip/v1/image-cache/report"

// MaxReport is the largest Report in bytes.
const MaxReport = 4 << 10

// Report says of an image of the cell's pod why it is, or a part of it, not read
// from the cache.
type Report struct {
	Image string `json:"image"`
	// Reason is one of those below.
	Reason string `json:"reason"`
	// Message is for people.
	Message string `json:"message"`
}

// Reasons of reports.
const (
	// NotCached: the cache does not have the image, or the pod may not have it
	// from there.
	NotCached = "NotCached"
	// Unanswered: Kip did not answer in time.
	Unanswered = "Unanswered"
	// Unreachable: the share cannot be mounted or read.
	Unreachable = "Unreachable"
	// Slow: the share does not answer in time.
	Slow = "Slow"
	// Corrupt: the share has other bytes than it should.
	Corrupt = "Corrupt"
	// Unusable: the cell's kernel does not mount what the share has.
	Unusable = "Unusable"
	// NotFetched: a layer that could not be read from the share in a running pod
	// cannot be had from the registry either.
	NotFetched = "NotFetched"
)

// Reasons are all that there are.
var Reasons = []string{NotCached, Unanswered, Unreachable, Slow, Corrupt, Unusable, NotFetched}
