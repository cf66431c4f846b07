package registrylogin

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/client-go/tools/record"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway"
)

// maxCache is the longest that a kubelet may keep a login. A new one costs a
// request to Kip, which has it in memory; a kubelet's copy cannot be taken back.
const maxCache = time.Hour

// Config is what a Source is made of.
type Config struct {
	Cloud   cloudprovider.RegistryAuthorizer
	Events  record.EventRecorder
	Clock   clock.PassiveClock
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Source implements gateway.Registries.
type Source struct {
	cfg     Config
	answers *prometheus.CounterVec
}

var _ gateway.Registries = (*Source)(nil)

// New makes a Source.
func New(cfg Config) (*Source, error) {
	s := &Source{cfg: cfg, answers: prometheus.NewCounterVec(prometheus.CounterOpts{
		Name: "kip_registry_logins_total",
		Help: "Questions of cells for the login of a registry that their pod names, by answer.",
	}, []string{"result"})}
	if err := cfg.Metrics.Register(s.answers); err != nil {
		return nil, fmt.Errorf("registering the registry logins' metrics: %w", err)
	}
	return s, nil
}

// Login implements gateway.Registries. Where Kip's role has no right to a login
// there is none, and the pull goes on without one: an imagePullSecret may do.
func (s *Source) Login(ctx context.Context, pod *corev1.Pod, host string) (*gateway.RegistryLogin, error) {
	login, err := s.cfg.Cloud.RegistryLogin(ctx, host)
	switch {
	case err == nil && login == nil:
		s.answers.WithLabelValues("none").Inc()
		return nil, nil
	case err == nil:
		s.answers.WithLabelValues("given").Inc()
		left := login.Expires.Sub(s.cfg.Clock.Now())
		return &gateway.RegistryLogin{
			Username: login.Username, Password: login.Password, CacheFor: max(0, min(maxCache, left/2)),
		}, nil
	case ctx.Err() != nil:
		return nil, ctx.Err()
	}
	denied := cloudprovider.KindOf(err) == cloudprovider.Denied
	if !denied {
		s.answers.WithLabelValues("failed").Inc()
		s.cfg.Logger.WarnContext(ctx, "no login for a registry", "pod", pod.Namespace+"/"+pod.Name, "registry", host, "err", err)
		return nil, apierrors.NewServiceUnavailable("the registry's login cannot be had now")
	}
	s.answers.WithLabelValues("denied").Inc()
	action := ""
	if e, ok := errors.AsType[*cloudprovider.Error](err); ok {
		action = e.Action
	}
	s.cfg.Events.Eventf(pod, corev1.EventTypeWarning, "RegistryLoginDenied",
		"Kip's role may not %s, so images of %s are pulled without a login: %v", action, host, err)
	return nil, nil
}
