package registrylogin

import (
	"context"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/tools/record"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/gateway"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

type cloud func(ctx context.Context, host string) (*cloudprovider.RegistryLogin, error)

func (c cloud) RegistryLogin(ctx context.Context, host string) (*cloudprovider.RegistryLogin, error) {
	return c(ctx, host)
}

func TestLogin(t *testing.T) {
	const host = "123456789012.dkr.ecr.us-west-2.amazonaws.com"
	good := func(left time.Duration) *cloudprovider.RegistryLogin {
		return &cloudprovider.RegistryLogin{Username: "AWS", Password: "p", Expires: now.Add(left)}
	}
	denied := &cloudprovider.Error{Kind: cloudprovider.Denied, Action: "ecr:GetAuthorizationToken", Code: "AccessDeniedException", Message: "no"}
	for name, tc := range map[string]struct {
		reason string
		login  *cloudprovider.RegistryLogin
		err    error
		ended  bool

		want   *gateway.RegistryLogin
		fails  func(error) bool
		event  string
		result string
	}{
		"Given": {
			reason: "the kubelet keeps it for an hour at most",
			login:  good(12 * time.Hour), want: &gateway.RegistryLogin{Username: "AWS", Password: "p", CacheFor: time.Hour}, result: "given",
		},
		"Short": {
			reason: "and never until it has expired",
			login:  good(time.Hour), want: &gateway.RegistryLogin{Username: "AWS", Password: "p", CacheFor: 30 * time.Minute}, result: "given",
		},
		"Expired": {
			reason: "a clock that is ahead must not make a negative time of it",
			login:  good(-time.Second), want: &gateway.RegistryLogin{Username: "AWS", Password: "p"}, result: "given",
		},
		"None": {reason: "a registry that is not the cloud's", result: "none"},
		"Denied": {
			reason: "the pull goes on without a login, and the pod says which action is missing",
			err:    denied, event: "Warning RegistryLoginDenied Kip's role may not ecr:GetAuthorizationToken", result: "denied",
		},
		"Failed": {
			reason: "no answer: the kubelet comes again, and hears nothing of the account",
			err:    &cloudprovider.Error{Kind: cloudprovider.Transient, Message: "arn:aws:iam::1:role/kip"}, result: "failed",
			fails: func(err error) bool {
				return apierrors.IsServiceUnavailable(err) && !strings.Contains(err.Error(), "arn:")
			},
		},
		"HungUp": {
			reason: "a kubelet that gave up is no failure of the cloud",
			err:    context.Canceled, ended: true,
			fails: func(err error) bool { return errors.Is(err, context.Canceled) },
		},
	} {
		t.Run(name, func(t *testing.T) {
			events := record.NewFakeRecorder(1)
			metrics := prometheus.NewRegistry()
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			s, err := New(Config{
				Cloud: cloud(func(_ context.Context, asked string) (*cloudprovider.RegistryLogin, error) {
					if asked != host {
						t.Errorf("asked for %s", asked)
					}
					if tc.ended {
						cancel()
					}
					return tc.login, tc.err
				}),
				Events: events, Clock: clocktesting.NewFakePassiveClock(now), Metrics: metrics, Logger: slog.New(slog.DiscardHandler),
			})
			if err != nil {
				t.Fatal(err)
			}
			pod := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "shop", Name: "web"}}
			got, err := s.Login(ctx, pod, host)
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if (tc.fails == nil) != (err == nil) || tc.fails != nil && !tc.fails(err) {
				t.Errorf("%s: error %v", tc.reason, err)
			}
			select {
			case event := <-events.Events:
				if tc.event == "" || !strings.HasPrefix(event, tc.event) || !strings.Contains(event, host) {
					t.Errorf("%s: event %q", tc.reason, event)
				}
			default:
				if tc.event != "" {
					t.Errorf("%s: no event", tc.reason)
				}
			}
			for _, result := range []string{"given", "none", "denied", "failed"} {
				want := 0.0
				if result == tc.result {
					want = 1
				}
				if n := testutil.ToFloat64(s.answers.WithLabelValues(result)); n != want {
					t.Errorf("%s: %s was counted %v times", tc.reason, result, n)
				}
			}
		})
	}
}
