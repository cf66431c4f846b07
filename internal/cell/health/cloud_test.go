package health

import (
	"errors"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway"
)

func impaired(cell string) cloudprovider.InstanceHealth {
	return cloudprovider.InstanceHealth{ID: "i-" + cell, Impaired: true}
}

func byCloud(c *Config) { c.ByCloud, c.Timeout = true, 3*time.Minute }

// By the cloud's word: silence takes a pod out of service and costs no cell.
func TestByCloud(t *testing.T) {
	w := newWorld(t, byCloud)
	w.several(3)
	w.look()
	w.dead["c01"] = true
	w.pass(10 * time.Minute)
	w.wantSilent("c01", true)
	w.wantGivenUp()

	w.reports = []cloudprovider.InstanceHealth{impaired("c02"), impaired("of somebody else")}
	w.pass(3 * time.Minute)
	w.wantGivenUp()
	w.pass(2 * time.Minute)
	w.wantGivenUp("c02")
	if f := w.cell("c02").Status.Failure; f.Reason != v1beta1.FailureImpaired {
		t.Errorf("the Cell says %+v", f)
	}
}

// All cells may be impaired at once: that is the cloud's word, not Kip's network.
func TestByCloudAllAtOnce(t *testing.T) {
	w := newWorld(t, byCloud)
	for _, n := range w.several(3) {
		w.reports = append(w.reports, impaired(n))
		w.dead[n] = true
	}
	w.look()
	w.pass(5 * time.Minute)
	w.wantGivenUp("c00", "c01", "c02")
}

// Time counts between looks that found it impaired, and only where no look
// between them found otherwise or is missing.
func TestImpairedFor(t *testing.T) {
	for name, tc := range map[string]struct {
		reason  string
		between func(*world)
	}{
		"well again": {"the check passed meanwhile", func(w *world) {
			w.reports = nil
			w.pass(time.Minute)
		}},
		"cloud away": {"nobody knows what it was like", func(w *world) {
			w.refusal = errors.New("no answer")
			w.pass(10 * time.Minute)
			w.refusal = nil
		}},
		"Kip stood still": {"nobody knows what it was like", func(w *world) {
			w.clock.Step(time.Hour)
			w.look()
		}},
		"Kip restarted": {"a new Kip counts from its own first look", func(w *world) { w.restart() }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, byCloud)
			w.several(3)
			w.look()
			for range 5 {
				w.reports = []cloudprovider.InstanceHealth{impaired("c01")}
				w.pass(2 * time.Minute)
				tc.between(w)
			}
			w.wantGivenUp()
			w.reports = []cloudprovider.InstanceHealth{impaired("c01")}
			w.pass(6 * time.Minute)
			w.wantGivenUp("c01")
		})
	}
}

// Without the right to ask Kip does without, says so once and asks seldom.
func TestDenied(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		change func(*Config)
		events int
		lost   []string
	}{
		"status":   {"nothing that was asked for is missing", nil, 0, []string{"c01"}},
		"cloudAPI": {"whoever wants the cloud's word has none, and silence is no substitute: he has reason not to trust it", byCloud, 1, nil},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, tc.change)
			w.several(3)
			w.refusal = &cloudprovider.Error{Kind: cloudprovider.Denied, Action: "ec2:DescribeInstanceStatus", Code: "UnauthorizedOperation"}
			w.dead["c01"] = true
			w.look()
			w.pass(time.Hour)
			w.wantGivenUp(tc.lost...)
			if n := w.told("HealthCheckDenied"); n != tc.events {
				t.Errorf("%s: told %d times", tc.reason, n)
			}
			if w.asked > 7 {
				t.Errorf("asked %d times in an hour", w.asked)
			}
			w.wantMetric("kip_cloud_health_looks_total", float64(w.asked))

			// The right is given: no restart is needed.
			w.refusal, w.reports = nil, []cloudprovider.InstanceHealth{impaired("c02")}
			w.dead["c02"] = tc.change == nil
			w.pass(20 * time.Minute)
			w.wantGivenUp(append(tc.lost, "c02")...)
		})
	}
}

func scheduled(cell, code string, at time.Time) cloudprovider.InstanceHealth {
	return cloudprovider.InstanceHealth{ID: "i-" + cell, Events: []cloudprovider.ScheduledEvent{{ID: "event-" + cell, Code: code, NotBefore: at, Description: "degraded hardware"}}}
}

// What ends or reboots an instance interrupts its cell in time; the rest is told.
func TestScheduledEvents(t *testing.T) {
	for code, action := range map[string]string{
		"instance-stop": "stop", "instance-retirement": "stop", "instance-reboot": "reboot", "system-reboot": "reboot",
		"system-maintenance": "", "a-code-of-tomorrow": "",
	} {
		t.Run(code, func(t *testing.T) {
			w := newWorld(t, nil)
			w.several(3)
			at := w.clock.Now().Add(25 * time.Minute)
			w.reports = []cloudprovider.InstanceHealth{scheduled("c01", code, at), scheduled("of somebody else", code, at)}
			w.look()
			w.pass(25*time.Minute - eventLead - 2*time.Minute)
			if n := w.told("InstanceEventScheduled"); n != 1 {
				t.Errorf("told %d times", n)
			}
			if len(w.interruptions) > 0 {
				t.Fatalf("interrupted %s ahead", at.Sub(w.clock.Now()))
			}
			w.pass(4 * time.Minute)
			var want []gateway.Interruption
			if action != "" {
				want = []gateway.Interruption{{Kind: gateway.InterruptionKind(code), Action: action, Time: at}}
			}
			w.pass(10 * time.Minute) // once, however often it is looked at
			if diff := cmp.Diff(want, w.interruptions); diff != "" {
				t.Error(diff)
			}
		})
	}
}

// Kip was away when it should have interrupted the cell: the pod gets a little
// time all the same, for the instance is still there.
func TestScheduledEventIsDue(t *testing.T) {
	w := newWorld(t, nil)
	w.several(3)
	w.reports = []cloudprovider.InstanceHealth{scheduled("c01", "instance-stop", w.clock.Now().Add(-time.Hour))}
	w.look()
	want := []gateway.Interruption{{Kind: "instance-stop", Action: "stop", Time: w.clock.Now().Add(shortNotice)}}
	w.pass(10 * time.Minute)
	if diff := cmp.Diff(want, w.interruptions); diff != "" {
		t.Error(diff)
	}
}

// An interruption that comes no later is not put off, and what ends anyway is
// left alone.
func TestScheduledEventOfACellThatEnds(t *testing.T) {
	for name, change := range map[string]func(*world, *v1beta1.Cell){
		"interrupted": func(w *world, c *v1beta1.Cell) {
			c.Status.Interruption = &v1beta1.InterruptionStatus{Kind: v1beta1.SpotInterruption, Deadline: metav1.NewTime(w.clock.Now())}
		},
		"given up": func(_ *world, c *v1beta1.Cell) {
			c.Status.Failure = &v1beta1.FailureStatus{Reason: v1beta1.FailureSilent}
		},
		"lost": func(_ *world, c *v1beta1.Cell) { c.Status.Phase = v1beta1.CellTerminating },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.add("web", func(c *v1beta1.Cell) { change(w, c) })
			w.reports = []cloudprovider.InstanceHealth{scheduled("web", "instance-stop", w.clock.Now().Add(time.Minute))}
			w.look()
			w.pass(10 * time.Minute)
			if len(w.interruptions) > 0 {
				t.Errorf("interrupted: %+v", w.interruptions)
			}
		})
	}
}
