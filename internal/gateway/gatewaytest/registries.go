package gatewaytest

import (
	"context"
	"sync"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/gateway"
)

// Registries is a gateway.Registries that a test sets. The zero Registries
// knows no login.
type Registries struct {
	mu     sync.Mutex
	err    error
	logins map[string]gateway.RegistryLogin
	asked  []string
}

var _ gateway.Registries = (*Registries)(nil)

// Set makes a host's login known.
func (r *Registries) Set(host string, login gateway.RegistryLogin) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.logins == nil {
		r.logins = map[string]gateway.RegistryLogin{}
	}
	r.logins[host] = login
}

// Fail makes every further call fail with err, until Fail(nil).
func (r *Registries) Fail(err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.err = err
}

// Login implements gateway.Registries.
func (r *Registries) Login(_ context.Context, _ *corev1.Pod, host string) (*gateway.RegistryLogin, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.asked = append(r.asked, host)
	if r.err != nil {
		return nil, r.err
	}
	if login, ok := r.logins[host]; ok {
		return &login, nil
	}
	return nil, nil
}

// Asked are the hosts whose login was asked for, oldest first.
func (r *Registries) Asked() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string(nil), r.asked...)
}
