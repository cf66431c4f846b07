package connection

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/enrolment"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/tunnel"
)

// enrolled is a Cell that enrolled long ago.
func (w *world) enrolled(name string) {
	w.addCell(name, "cell:6421")
	w.changeStatus(name, func(s *v1beta1.CellStatus) { s.Enrolment = &v1beta1.EnrolmentStatus{KeySHA256: "the key"} })
}

// certificate is one of the cell's that begins now.
func (w *world) certificate(t *testing.T) *x509.Certificate {
	t.Helper()
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	text, err := w.authorities.Signer().SignCell(key.Public(), cellName, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	c, err := pki.ParseCertificate(text)
	if err != nil {
		t.Fatal(err)
	}
	return c
}

// times notes when something was tried.
type times struct {
	mu sync.Mutex
	at []time.Time
}

func (t *times) note() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.at = append(t.at, time.Now())
}

func (t *times) since(begin time.Time) (n int) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, at := range t.at {
		if !at.Before(begin) {
			n++
		}
	}
	return n
}

func TestRefusedEnrolmentSlowsDown(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.addCell(cellName, "cell:6421")
		var attempts times
		k := w.start(func(cfg *Config) {
			cfg.Dialer = &scripted{t: t, enrol: func(context.Context, tunnel.SignFunc) error {
				attempts.note()
				return enrolment.ErrProof
			}}
		})
		k.reconcile(cellName)
		time.Sleep(10 * time.Minute)
		if n := attempts.since(time.Time{}); n < 10 || n > 40 {
			t.Errorf("%d attempts in 10 minutes, want between 10 and 40", n)
		}
		if n := attempts.since(time.Now().Add(-61 * time.Second)); n == 0 {
			t.Error("it was given up")
		}
		if events := k.drainEvents(); len(events) != 1 {
			t.Errorf("events: %q, want one", events)
		}
		k.stop()
	})
}

// A server whose certificate is wrong is reported as one who enrols wrongly is.
func TestUntrustedServerIsReported(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.enrolled(cellName)
		k := w.start(func(cfg *Config) {
			cfg.Dialer = &scripted{t: t, serve: func(context.Context, func(*x509.Certificate)) error {
				return fmt.Errorf("handshake: %w", tunnel.ErrUntrusted)
			}}
		})
		k.reconcile(cellName)
		time.Sleep(time.Minute)
		if n := k.value("kip_enrolments_refused_total", "certificate"); n < 3 {
			t.Errorf("counted %v times in a minute", n)
		}
		if events := k.drainEvents(); len(events) != 1 {
			t.Errorf("events: %q, want one", events)
		}
		k.stop()
	})
}

// A cell that went away is dialled eagerly at first, then for ever at a slow
// pace.
func TestUnreachableCell(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.enrolled(cellName)
		var dials, awaits times
		var returned, noticed atomic.Int64
		certificate := w.certificate(t)
		k := w.start(func(cfg *Config) {
			cfg.Dialer = &scripted{
				t: t,
				await: func(ctx context.Context) error {
					awaits.note()
					<-ctx.Done()
					return fmt.Errorf("%w: %w", tunnel.ErrUnreachable, ctx.Err())
				},
				serve: func(ctx context.Context, ready func(*x509.Certificate)) error {
					dials.note()
					if returned.Load() == 0 {
						return fmt.Errorf("dialling: %w", tunnel.ErrUnreachable)
					}
					noticed.Store(time.Now().UnixNano())
					ready(certificate)
					<-ctx.Done()
					return ctx.Err()
				},
			}
		})
		begin := time.Now()
		k.reconcile(cellName)
		time.Sleep(time.Hour)
		if n := awaits.since(time.Time{}); n != 1 {
			t.Errorf("waited eagerly %d times, want once", n)
		}
		if n := dials.since(begin.Add(eagerWindow)); n < 57*60/10 || n > 57*60/5 {
			t.Errorf("%d dials in the 57 minutes after, want one every 5 to 10 s", n)
		}
		returned.Store(time.Now().UnixNano())
		time.Sleep(time.Minute)
		late := time.Duration(noticed.Load() - returned.Load())
		if !k.Connected(cellName) || late > slowest {
			t.Errorf("connected %t, %s after it came back", k.Connected(cellName), late)
		}
		k.stop()
	})
}

// Two Kips that take the cell from each other do not do so ten times a second;
// a Kip that lost a good connection is back at once.
func TestLostConnections(t *testing.T) {
	cases := map[string]struct {
		reason   string
		lasts    time.Duration
		min, max int // dials in 10 minutes
	}{
		"Fight":  {reason: "Somebody else takes the cell at once, each time.", lasts: 10 * time.Millisecond, min: 40, max: 140},
		"Stable": {reason: "A connection that lasted a minute is replaced at once.", lasts: time.Minute, min: 10, max: 11},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t)
				w.enrolled(cellName)
				var dials times
				certificate := w.certificate(t)
				k := w.start(func(cfg *Config) {
					cfg.Dialer = &scripted{t: t, serve: func(ctx context.Context, ready func(*x509.Certificate)) error {
						dials.note()
						ready(certificate)
						select {
						case <-time.After(tc.lasts):
							return fmt.Errorf("%w: the agent closed it", tunnel.ErrLost)
						case <-ctx.Done():
							return ctx.Err()
						}
					}}
				})
				k.reconcile(cellName)
				time.Sleep(10*time.Minute - time.Second)
				if n := dials.since(time.Time{}); n < tc.min || n > tc.max {
					t.Errorf("%s\n%d dials in 10 minutes, want %d to %d", tc.reason, n, tc.min, tc.max)
				}
				k.stop()
			})
		})
	}
}

// steady is a cell that stays connected, and counts and answers renewals.
func steady(t *testing.T, certificate *x509.Certificate, renewals *times, fail *atomic.Bool) *scripted {
	return &scripted{
		t: t,
		serve: func(ctx context.Context, ready func(*x509.Certificate)) error {
			ready(certificate)
			<-ctx.Done()
			return ctx.Err()
		},
		renew: func(ctx context.Context, key string, sign tunnel.SignFunc) error {
			renewals.note()
			if fail.Load() {
				return errors.New("the agent's disk is full")
			}
			_, err := sign(ctx, certificate.PublicKey, key)
			return err
		},
	}
}

func TestRenewalIsInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.enrolled(cellName)
		var renewals times
		var fail atomic.Bool
		certificate := w.certificate(t)
		k := w.start(func(cfg *Config) { cfg.Dialer = steady(t, certificate, &renewals, &fail) })
		k.reconcile(cellName)

		time.Sleep(time.Until(certificate.NotBefore.Add(14 * time.Hour)))
		if n := renewals.since(time.Time{}); n > 0 {
			t.Errorf("%d renewals after half of the certificate's life", n)
		}
		time.Sleep(time.Until(pki.RenewAt(certificate.NotBefore, certificate.NotAfter).Add(2 * renewInterval)))
		if n := renewals.since(time.Time{}); n != 1 {
			t.Errorf("%d renewals after two thirds of the certificate's life, want 1", n)
		}

		// The next one fails for an hour.
		fail.Store(true)
		time.Sleep(17 * time.Hour)
		failed := renewals.since(time.Time{}) - 1
		if failed < 10 || failed > 4*60 {
			t.Errorf("%d attempts that failed, want about one a minute", failed)
		}
		fail.Store(false)
		time.Sleep(2 * renewInterval)
		after := renewals.since(time.Time{})
		time.Sleep(12 * time.Hour)
		if n := renewals.since(time.Time{}); n != after {
			t.Error("it is renewed again and again")
		}
		if !k.Connected(cellName) {
			t.Error("renewing cost the connection")
		}
		k.stop()
	})
}

// Cells that enrolled together do not renew together.
func TestRenewalsAreSpread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		const cells = 200
		var renewals times
		var fail atomic.Bool
		certificate := w.certificate(t)
		k := w.start(func(cfg *Config) { cfg.Dialer = steady(t, certificate, &renewals, &fail) })
		for i := range cells {
			name := fmt.Sprintf("cell-%d", i)
			w.enrolled(name)
			k.reconcile(name)
		}
		time.Sleep(17 * time.Hour)
		k.stop()
		perMinute := map[time.Time]int{}
		for _, at := range renewals.at {
			perMinute[at.Truncate(time.Minute)]++
		}
		if len(renewals.at) != cells {
			t.Errorf("%d renewals, want %d", len(renewals.at), cells)
		}
		for minute, n := range perMinute {
			if n > cells/10 {
				t.Errorf("%d renewals at %s", n, minute)
			}
		}
	})
}

// Kip was away for longer than a certificate lives.
func TestExpiredCertificate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.enrolled(cellName)
		certificate := w.certificate(t)
		renewed := false
		k := w.start(func(cfg *Config) {
			cfg.Dialer = &scripted{
				t: t,
				serve: func(ctx context.Context, ready func(*x509.Certificate)) error {
					if !renewed {
						return fmt.Errorf("handshake: %w", tunnel.ErrExpired)
					}
					ready(certificate)
					<-ctx.Done()
					return ctx.Err()
				},
				renew: func(ctx context.Context, key string, sign tunnel.SignFunc) error {
					if key != "the key" {
						t.Errorf("renewed for %q", key)
					}
					if _, err := sign(ctx, certificate.PublicKey, "another key"); !errors.Is(err, errOtherKey) {
						t.Errorf("signing for another key: %v", err)
					}
					_, err := sign(ctx, certificate.PublicKey, key)
					renewed = err == nil
					return err
				},
			}
		})
		k.reconcile(cellName)
		synctest.Wait()
		if !k.Connected(cellName) {
			t.Error("the cell is not connected")
		}
		k.stop()
	})
}

// A server that calls itself fresh, for ever, gets Kip into no tight loop.
func TestFlappingServer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.enrolled(cellName)
		var dials times
		k := w.start(func(cfg *Config) {
			cfg.Dialer = &scripted{
				t: t,
				serve: func(context.Context, func(*x509.Certificate)) error {
					dials.note()
					return tunnel.ErrNotEnrolled
				},
				enrol: func(context.Context, tunnel.SignFunc) error { return tunnel.ErrAlreadyEnrolled },
			}
		})
		k.reconcile(cellName)
		time.Sleep(10 * time.Minute)
		if n := dials.since(time.Time{}); n > 300 {
			t.Errorf("%d dials in 10 minutes", n)
		}
		k.stop()
	})
}

// An agent with which there is no protocol in common is told of once.
func TestIncompatibleAgent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t)
		w.enrolled(cellName)
		k := w.start(func(cfg *Config) {
			cfg.Dialer = &scripted{t: t, serve: func(context.Context, func(*x509.Certificate)) error {
				return fmt.Errorf("dialling: %w", tunnel.ErrIncompatible)
			}}
		})
		k.reconcile(cellName)
		time.Sleep(10 * time.Minute)
		events := k.drainEvents()
		if len(events) != 1 || !strings.HasPrefix(events[0], "Warning AgentIncompatible") {
			t.Errorf("events: %q", events)
		}
		if _, err := k.Transport(cellName); err == nil || !strings.Contains(err.Error(), tunnel.ErrIncompatible.Error()) {
			t.Errorf("who asks for the cell is told %v", err)
		}
		k.stop()
	})
}
