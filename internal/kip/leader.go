package kip

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/apimachinery/pkg/util/rand"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	ctrl "sigs.k8s.io/controller-runtime"
	"sigs.k8s.io/controller-runtime/pkg/manager"
)

// A Kip that is killed is followed after leaseDuration and, at the worst, twice
// what is between two looks at its lease, which is at most 2.2 times
// retryPeriod: 13.4 s. The node's own lease lasts for 40 s. A leader that cannot
// renew ends itself two seconds before anybody may follow.
const (
	leaseDuration = 9 * time.Second
	renewDeadline = 7 * time.Second
	retryPeriod   = time.Second
)

// election is among the virtual node's Kips, of which the one leads that holds
// its Lease in Kip's namespace.
func election(c *rest.Config, o Options) (resourcelock.Interface, error) {
	identity := o.Identity
	if identity == "" {
		host, err := os.Hostname()
		if err != nil {
			return nil, fmt.Errorf("making an identity (--identity): %w", err)
		}
		identity = host + "_" + rand.String(10)
	}
	lock, err := resourcelock.NewFromKubeconfig(resourcelock.LeasesResourceLock, o.Namespace, o.NodeName,
		resourcelock.ResourceLockConfig{Identity: identity}, c, renewDeadline)
	if err != nil {
		return nil, fmt.Errorf("preparing the leader election: %w", err)
	}
	return lock, nil
}

// elected makes a manager one of several.
func elected(lock resourcelock.Interface) func(*ctrl.Options) {
	return func(m *ctrl.Options) {
		m.LeaderElection, m.LeaderElectionResourceLockInterface = true, lock
		m.LeaseDuration, m.RenewDeadline, m.RetryPeriod = new(leaseDuration), new(renewDeadline), new(retryPeriod)
		// What ends with its context has ended when another one may begin.
		m.LeaderElectionReleaseOnCancel = true
	}
}

// leads tells whether this Kip is the one that acts.
func leads(mgr ctrl.Manager) bool {
	select {
	case <-mgr.Elected():
		return true
	default:
		return false
	}
}

// registerLeader makes the metric of it.
func registerLeader(mgr ctrl.Manager, metrics prometheus.Registerer) error {
	err := metrics.Register(prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "kip_leader",
		Help: "1 where this Kip acts for its virtual node, 0 where it waits to take over.",
	}, func() float64 {
		if leads(mgr) {
			return 1
		}
		return 0
	}))
	if err != nil {
		return fmt.Errorf("registering the leader's metric: %w", err)
	}
	return nil
}

// always is a part of Kip that runs whether it leads or not: what keeps caches
// full, and what only answers.
type always func(context.Context) error

var _ manager.LeaderElectionRunnable = always(nil)

func (f always) Start(ctx context.Context) error { return f(ctx) }

func (always) NeedLeaderElection() bool { return false }
