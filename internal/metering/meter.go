package metering

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	typedcorev1 "k8s.io/client-go/kubernetes/typed/core/v1"
	"k8s.io/utils/clock"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
)

const (
	// lateness is how long after its end an hour is closed: far longer than the
	// cache of Cells lags behind.
	lateness = 2 * time.Minute
	// tooOld is how long after an hour AWS Marketplace takes no record of it.
	tooOld = 6 * time.Hour
	// remember is how long a Cell that is gone is remembered as counted.
	remember = 10 * time.Minute
	// interval is how often Run looks whether something is to be done.
	interval = 15 * time.Second
	// slowest is the longest wait between two attempts at the marketplace.
	slowest = 5 * time.Minute

	dataKey = "usage.json"
)

// Config is everything that a Meter needs from outside.
type Config struct {
	Market Market
	// Cells lists the Cells of the virtual node, from a cache that was filled
	// before Run is called.
	Cells client.Reader
	// ConfigMaps are those of Kip's namespace; Name is the one with the usage.
	ConfigMaps typedcorev1.ConfigMapInterface
	Name       string

	Clock   clock.Clock
	Metrics prometheus.Registerer
	Logger  *slog.Logger
}

// Meter counts and reports. It starts no goroutines; Run is called once.
type Meter struct {
	cfg      Config
	reports  *prometheus.CounterVec
	entitled prometheus.Gauge

	writing sync.Mutex // one change of the usage at a time

	mu sync.Mutex
	// unregistered and unmetered are the marketplace's last refusals, by what
	// was refused.
	unregistered, unmetered error
}

// New checks the configuration and registers metrics. It starts nothing.
func New(cfg Config) (*Meter, error) {
	if cfg.Market == nil || cfg.Cells == nil || cfg.ConfigMaps == nil || cfg.Name == "" || cfg.Clock == nil || cfg.Metrics == nil || cfg.Logger == nil {
		return nil, errors.New("metering: every field of Config must be set")
	}
	m := &Meter{
		cfg: cfg,
		reports: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "kip_usage_reports_total", Help: "Reports of an hour's usage to the marketplace by result (accepted, refused, failed, late).",
		}, []string{"result"}),
		entitled: prometheus.NewGauge(prometheus.GaugeOpts{
			Name: "kip_entitled", Help: "1 unless the marketplace refused the use of Kip, which stops launches.",
		}),
	}
	m.entitled.Set(1)
	for _, c := range []prometheus.Collector{m.reports, m.entitled} {
		if err := cfg.Metrics.Register(c); err != nil {
			return nil, fmt.Errorf("metering: registering metrics: %w", err)
		}
	}
	return m, nil
}

// MayLaunch returns why no cell may be launched, nil if one may. It answers
// from memory: a marketplace that did not answer yet is no reason.
func (m *Meter) MayLaunch() error {
	m.mu.Lock()
	defer m.mu.Unlock()
	return cmp.Or(m.unregistered, m.unmetered)
}

// Ended counts a Cell that is about to go, once, however often it is called.
// The Cell may go when it returned nil.
func (m *Meter) Ended(ctx context.Context, cell *v1beta1.Cell) error {
	if _, _, used := span(cell); !used {
		return nil
	}
	now := m.cfg.Clock.Now()
	return m.change(ctx, func(u *usage) bool { return u.count(cell, now) })
}

// Run registers and reports until ctx ends.
func (m *Meter) Run(ctx context.Context) error {
	registered, failures := false, 0
	for {
		var err error
		if !registered {
			err = m.answered(&m.unregistered, m.cfg.Market.Register(ctx))
			registered = err == nil
		}
		// Usage counts whatever was answered.
		err = errors.Join(err, m.report(ctx))
		wait := interval
		if err != nil && ctx.Err() == nil {
			wait = min(interval<<min(failures, 8), slowest)
			if failures++; failures == 1 || failures%10 == 0 {
				m.cfg.Logger.Warn("metering failed, it is repeated", "err", err, "failures", failures)
			}
		} else {
			failures = 0
		}
		timer := m.cfg.Clock.NewTimer(wait)
		select {
		case <-timer.C():
		case <-ctx.Done():
			timer.Stop()
			return nil
		}
	}
}

// report closes the hours that are over, one after the other, and sends each.
func (m *Meter) report(ctx context.Context) error {
	for {
		cells := &v1beta1.CellList{}
		if err := m.cfg.Cells.List(ctx, cells); err != nil {
			return fmt.Errorf("listing cells: %w", err)
		}
		now := m.cfg.Clock.Now()
		var record *Record
		err := m.change(ctx, func(u *usage) bool {
			closed := u.closeHours(cells.Items, now)
			if closed {
				u.forget(cells.Items, now)
			}
			record = u.Sending
			return closed
		})
		if err != nil || record == nil {
			return err
		}
		if err := m.send(ctx, *record); err != nil {
			return err
		}
	}
}

// send brings a record to the marketplace and notes the answer.
func (m *Meter) send(ctx context.Context, r Record) error {
	err := m.answered(&m.unmetered, m.cfg.Market.Meter(ctx, r))
	log := m.cfg.Logger.With("hour", r.Hour, "cellHours", r.CellHours)
	counted := true
	switch {
	case err == nil:
		m.reports.WithLabelValues("accepted").Inc()
		log.Info("usage reported")
	case errors.Is(err, ErrCounted):
		// A record never changes, so this is another Kip's, or somebody changed
		// the usage.
		m.reports.WithLabelValues("accepted").Inc()
		log.Error("usage was reported before, with another quantity", "err", err)
	case errors.Is(err, ErrTooOld):
		m.reports.WithLabelValues("late").Inc()
		log.Warn("usage is too old to be reported for its hour and goes to the next one", "err", err)
		counted = false
	case refused(err):
		m.reports.WithLabelValues("refused").Inc()
		return fmt.Errorf("reporting usage of %s: %w", r.Hour, err)
	default:
		m.reports.WithLabelValues("failed").Inc()
		return fmt.Errorf("reporting usage of %s: %w", r.Hour, err)
	}
	return m.change(ctx, func(u *usage) bool {
		if u.Sending == nil || !u.Sending.Hour.Equal(r.Hour) {
			return false
		}
		u.sent(counted)
		return true
	})
}

// answered keeps in one of the two refusals whether the marketplace allows the
// use, and returns the error.
func (m *Meter) answered(refusal *error, err error) error {
	if err != nil && !refused(err) {
		return err
	}
	before := m.MayLaunch()
	m.mu.Lock()
	*refusal = err
	m.mu.Unlock()
	switch now := m.MayLaunch(); {
	case now != nil && before == nil:
		m.entitled.Set(0)
		m.cfg.Logger.Error("the marketplace refuses the use of Kip: no cell is launched any more, pods run on", "err", err)
	case now == nil && before != nil:
		m.entitled.Set(1)
		m.cfg.Logger.Info("the marketplace allows the use of Kip again")
	}
	return err
}

// refused: the marketplace gave an answer, and it is no.
func refused(err error) bool {
	if errors.Is(err, ErrTooOld) || errors.Is(err, ErrCounted) {
		return false
	}
	switch cloudprovider.KindOf(err) {
	case cloudprovider.Denied, cloudprovider.InvalidConfiguration, cloudprovider.Unsupported:
		return true
	}
	return false
}

// change reads the usage, and writes it if f says so. The resource version is
// the lock; f may be called again.
func (m *Meter) change(ctx context.Context, f func(*usage) bool) error {
	m.writing.Lock()
	defer m.writing.Unlock()
	for attempt := 0; ; attempt++ {
		err := m.changeOnce(ctx, f)
		if attempt < 3 && (apierrors.IsConflict(err) || apierrors.IsAlreadyExists(err)) {
			continue
		}
		if err != nil {
			return fmt.Errorf("usage in ConfigMap %s: %w", m.cfg.Name, err)
		}
		return nil
	}
}

func (m *Meter) changeOnce(ctx context.Context, f func(*usage) bool) error {
	stored, err := m.cfg.ConfigMaps.Get(ctx, m.cfg.Name, metav1.GetOptions{})
	missing := apierrors.IsNotFound(err)
	if err != nil && !missing {
		return err
	}
	u := begin(m.cfg.Clock.Now())
	if missing {
		stored = &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: m.cfg.Name}}
	} else {
		u = &usage{}
		if err := json.Unmarshal([]byte(stored.Data[dataKey]), u); err != nil {
			return fmt.Errorf("reading %s: %w", dataKey, err)
		}
	}
	if changed := f(u); !changed && !missing {
		return nil
	}
	data, err := json.Marshal(u)
	if err != nil {
		return err
	}
	stored.Data = map[string]string{dataKey: string(data)}
	if missing {
		_, err = m.cfg.ConfigMaps.Create(ctx, stored, metav1.CreateOptions{})
	} else {
		_, err = m.cfg.ConfigMaps.Update(ctx, stored, metav1.UpdateOptions{})
	}
	return err
}
