package lifecycle

import (
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// probedOfferings is how many offerings, the cheapest that fit, are tried in
// turn while the cloud has none of any.
const probedOfferings = 8

// probe returns an offering to try although it was refused lately, nil if
// there is none yet. It is for Cells for which nothing else is left: that an
// offering is avoided for minutes saves them nothing, and costs them those
// minutes after capacity came back. Marks are shared by all Cells, so however
// many wait, an offering is tried once per capacityRecheck and a Cell tries one.
func (r *Reconciler) probe(req v1beta1.Requirements, opts instancetype.Options, a *attempt) *instancetype.Offering {
	if a.probed {
		return nil
	}
	opts.Unavailable, opts.Limit = nil, probedOfferings
	var oldest *instancetype.Offering
	var refused time.Time
	for _, o := range r.cfg.Offerings(req, opts).Offerings {
		until, ok := r.unavailable.Until(o.Key(), opts.Now)
		if at := until.Add(-instancetype.UnavailableFor); ok && opts.Now.Sub(at) >= capacityRecheck && (oldest == nil || at.Before(refused)) {
			oldest, refused = &o, at
		}
	}
	if oldest != nil {
		// Before the answer, so that no other Cell asks the same meanwhile.
		r.unavailable.Mark(oldest.Key(), opts.Now)
		a.probed, a.vcpus = true, oldest.VCPUs
	}
	return oldest
}

// offeringOf names what a Cell's launch asked for.
func offeringOf(l *v1beta1.LaunchStatus) instancetype.Key {
	return instancetype.Key{InstanceType: l.InstanceType, Zone: l.Zone, CapacityType: l.CapacityType}
}
