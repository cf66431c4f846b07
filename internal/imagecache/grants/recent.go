package grants

import (
	"sync"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"k8s.io/apimachinery/pkg/types"
)

// rememberFor is for how long a registry's yes to a pod counts for this pod, which
// asks again and again while its image is being fetched.
const rememberFor = time.Minute

// allowed is what a pod was allowed.
type allowed struct {
	pod      types.UID
	manifest string
}

// recent are the yeses of registries of late. Nothing is remembered from one pod
// for another.
type recent struct {
	mu     sync.Mutex
	logins map[allowed]remembered
}

type remembered struct {
	login *authn.AuthConfig
	until time.Time
}

func (r *recent) get(key allowed) (*authn.AuthConfig, bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	known, ok := r.logins[key]
	return known.login, ok && time.Now().Before(known.until)
}

func (r *recent) add(key allowed, login *authn.AuthConfig) {
	r.mu.Lock()
	defer r.mu.Unlock()
	now := time.Now()
	for other, known := range r.logins {
		if !now.Before(known.until) {
			delete(r.logins, other)
		}
	}
	r.logins[key] = remembered{login, now.Add(rememberFor)}
}
