package networkpolicy

import (
	"errors"
	"fmt"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// routingPriority is after the table of the cell's own addresses, before all
// others.
const routingPriority = 1

// routing enforces all or nothing: while the rules isolate the pod in any
// direction, nothing is forwarded.
type routing struct{}

// prohibit refuses every packet that came from outside and is not for the cell.
func (routing) prohibit() *netlink.Rule {
	rule := netlink.NewRule()
	rule.Family = netlink.FAMILY_V4
	rule.Priority = routingPriority
	rule.IifName, rule.Invert = "lo", true
	rule.Type = unix.RTN_PROHIBIT
	return rule
}

func (r routing) inForce() (bool, error) {
	there, err := netlink.RuleListFiltered(netlink.FAMILY_V4, r.prohibit(), netlink.RT_FILTER_PRIORITY)
	if err != nil {
		return false, fmt.Errorf("listing routing rules: %w", err)
	}
	return len(there) > 0, nil
}

// leavesTrace implements enforcer.
func (routing) leavesTrace(s rules.State) bool {
	return s.Rules.Ingress.Isolated || s.Rules.Egress.Isolated
}

func (r routing) apply(_ *rules.State, next rules.State) error {
	isolated := r.leavesTrace(next)
	there, err := r.inForce()
	switch {
	case err != nil:
		return err
	case isolated && !there:
		if err := netlink.RuleAdd(r.prohibit()); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("adding a routing rule: %w", err)
		}
	case !isolated && there:
		if err := netlink.RuleDel(r.prohibit()); err != nil {
			return fmt.Errorf("deleting a routing rule: %w", err)
		}
	}
	if isolated && next.Revision != "" {
		return errPartly
	}
	return nil
}
