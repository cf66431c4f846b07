package lifecycle

import (
	"context"
	"fmt"
	"slices"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cell/limits"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// options is what an offering is chosen by: what the Cell asks for, without
// architectures for which there is no machine image, and what can be launched
// now.
func (r *Reconciler) options(ctx context.Context, spec *v1beta1.CellSpec) (v1beta1.Requirements, instancetype.Options, error) {
	req := *spec.Requirements.DeepCopy()
	opts := r.cfg.Options
	opts.Unavailable, opts.Now = r.unavailable, r.cfg.Clock.Now()
	if only := spec.Instance.PrivateIPOnly; only != nil {
		opts.PublicIPv4 = !*only
	}
	if lister, ok := r.cfg.Cloud.(cloudprovider.ZoneLister); ok {
		zones, err := lister.Zones(ctx)
		if err == nil && len(zones) == 0 {
			err = &cloudprovider.Error{Kind: cloudprovider.SubnetFull, Message: "no subnet has free addresses for a cell"}
		}
		if err != nil {
			return req, opts, err
		}
		opts.Zones = slices.Clone(zones)
	}
	if lister, ok := r.cfg.Cloud.(cloudprovider.ArchitectureLister); ok && len(req.Architectures) > 1 {
		have, err := lister.Architectures(ctx)
		if err != nil {
			return req, opts, err
		}
		both := slices.DeleteFunc(slices.Clone(req.Architectures), func(x string) bool { return !slices.Contains(have, x) })
		if len(both) > 0 { // else the launch will say what is missing
			req.Architectures = both
		}
	}
	return req, opts, nil
}

// Limits is the ledger by which launches are limited.
func (r *Reconciler) Limits() *limits.Ledger { return r.limits }

// Offerings are all that fit such a Cell, cheapest first, be they to be had now
// or not. next is what would be launched for it, nil if nothing can be now.
func (r *Reconciler) Offerings(ctx context.Context, spec v1beta1.CellSpec) (fit []instancetype.Offering, next *instancetype.Offering, err error) {
	req, opts, err := r.options(ctx, &spec)
	if err != nil {
		return nil, nil, fmt.Errorf("finding offerings: %w", err)
	}
	opts.Limit = 1
	if now := r.cfg.Offerings(req, opts).Offerings; len(now) > 0 {
		next = &now[0]
	}
	// A cell that runs already is none the worse for what cannot be launched.
	opts.Limit, opts.Unavailable, opts.Zones = 0, nil, nil
	return r.cfg.Offerings(req, opts).Offerings, next, nil
}
