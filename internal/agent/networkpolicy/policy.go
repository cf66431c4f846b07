package networkpolicy

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// File is where the rules are kept for a restart of the instance.
const File = "/var/lib/kip/network-policy.json"

// enforcer is what the kernel can do.
type enforcer interface {
	// inForce is whether there are rules in the kernel.
	inForce() (bool, error)
	// leavesTrace is whether there are, when the state is in force.
	leavesTrace(rules.State) bool
	// apply puts next in force, in one step: after an error what was in force
	// is. before is what this process put in force last, nil if it did not.
	apply(before *rules.State, next rules.State) error
}

// keepInterval is how often it is looked whether the rules are still there.
const keepInterval = 10 * time.Second

// errPartly says that the rules cannot be enforced as they are, and that the
// pod has no network at all for that reason.
var errPartly = errors.New("the cell's kernel has no nftables, and a NetworkPolicy selects the pod: it is cut off from the network")

// Policy is the pod's network policy.
type Policy struct {
	file   store
	logger *slog.Logger

	// begun is closed when something is in force, be it that nothing is allowed.
	begun chan struct{}

	mu       sync.Mutex
	enforcer enforcer
	// state is what this process put in force, nil if it does not know what is.
	state *rules.State
}

// New returns a Policy that does nothing until Begin is called.
func New(file string, logger *slog.Logger) *Policy {
	return &Policy{file: store(file), logger: logger, begun: make(chan struct{})}
}

// Begin takes up what is in force, or what was when the instance was restarted,
// or closes the cell. It is called once, before anything is forwarded. An error
// means that the pod must not get a network.
func (p *Policy) Begin(uplink string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	var err error
	p.enforcer = filter{uplink: uplink}
	if err = p.begin(); err != nil {
		p.logger.Warn("this kernel's nftables cannot be used: a pod that a NetworkPolicy selects will have no network at all", "error", err)
		p.enforcer = routing{}
		err = p.begin()
	} else if freeErr := (routing{}).apply(nil, rules.State{}); freeErr != nil {
		// Nobody may have closed the cell that way, where it is not possible.
		p.logger.Debug("looking for an agent's routing rule", "error", freeErr)
	}
	if err != nil {
		return fmt.Errorf("closing the cell until its network policy is known: %w", err)
	}
	close(p.begun)
	return nil
}

// Keep sees to it, until the context ends, that the rules are still there: a
// firewall that starts late, or somebody who means well, may have removed all
// that there was.
func (p *Policy) Keep(ctx context.Context) {
	tick := time.NewTicker(keepInterval)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		p.keep()
	}
}

func (p *Policy) keep() {
	select {
	case <-p.begun:
	default:
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	state := rules.Closed()
	if p.state != nil {
		state = *p.state
	}
	if there, err := p.enforcer.inForce(); err != nil || there || !p.enforcer.leavesTrace(state) {
		return
	}
	p.logger.Warn("somebody removed the pod's network policy from the kernel; it is made anew")
	if err := p.enforcer.apply(nil, state); err != nil && !errors.Is(err, errPartly) {
		p.logger.Error("the pod's network policy is not in force", "error", err)
	}
}

func (p *Policy) begin() error {
	if there, err := p.enforcer.inForce(); err != nil || there {
		// An agent before this one. What it enforced may be newer than the file.
		return err
	}
	state, err := p.file.load()
	if err != nil {
		// No reason to be open.
		p.logger.Warn("the network policy of before the restart cannot be read", "error", err)
	}
	if state == nil {
		return p.enforcer.apply(nil, rules.Closed())
	}
	if err := p.enforcer.apply(nil, *state); err != nil && !errors.Is(err, errPartly) {
		return err
	}
	p.state = state
	return nil
}

// Update puts an update in force. It may be repeated, and waits for Begin.
func (p *Policy) Update(ctx context.Context, u rules.Update) error {
	select {
	case <-p.begun:
	case <-ctx.Done():
		return fmt.Errorf("waiting for the cell's network: %w", ctx.Err())
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	var now rules.State
	if p.state != nil {
		now = *p.state
	}
	next, err := now.Apply(u)
	if err != nil {
		return err
	}
	err = p.enforcer.apply(p.state, next)
	if err != nil && p.state != nil && !errors.Is(err, errPartly) {
		// What this process believes to be in force may not be: somebody with
		// the cell's root, or a firewall that starts late, may have removed it.
		p.logger.Warn("a change of the network policy could not be put in force; making all of it anew", "error", err)
		err = p.enforcer.apply(nil, next)
	}
	if err != nil && !errors.Is(err, errPartly) {
		return fmt.Errorf("putting the network policy in force: %w", err)
	}
	p.state = &next
	if saveErr := p.file.save(next); saveErr != nil {
		// The pod may have filled the disk: that must not keep rules from being
		// in force, nor older ones from being forgotten.
		p.logger.Warn("the network policy is in force, but will not be after a restart of the instance until Kip says it again", "error", saveErr)
	}
	return err
}
