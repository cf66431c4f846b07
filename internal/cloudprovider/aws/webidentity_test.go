package aws

import (
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// stsServer speaks as much of STS as a pod with a role for its service account needs.
type stsServer struct {
	mu sync.Mutex
	// tokens that came, oldest first.
	tokens []string
	role   string
	// refusal is an error's code and message; empty: the role is given.
	code, message string
	// life of the credentials that are given.
	life time.Duration
}

func (s *stsServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := r.ParseForm(); err != nil || r.Form.Get("Action") != "AssumeRoleWithWebIdentity" || r.Header.Get("Authorization") != "" {
		http.Error(w, "not what a pod asks", http.StatusTeapot)
		return
	}
	s.tokens, s.role = append(s.tokens, r.Form.Get("WebIdentityToken")), r.Form.Get("RoleArn")
	w.Header().Set("Content-Type", "text/xml")
	if s.code != "" {
		w.WriteHeader(http.StatusForbidden)
		fmt.Fprintf(w, `<ErrorResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><Error><Type>Sender</Type><Code>%s</Code><Message>%s</Message></Error></ErrorResponse>`, s.code, s.message)
		return
	}
	fmt.Fprintf(w, `<AssumeRoleWithWebIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/"><AssumeRoleWithWebIdentityResult>
		<Credentials><AccessKeyId>ASIA%d</AccessKeyId><SecretAccessKey>s</SecretAccessKey><SessionToken>session-%d</SessionToken><Expiration>%s</Expiration></Credentials>
		</AssumeRoleWithWebIdentityResult></AssumeRoleWithWebIdentityResponse>`, len(s.tokens), len(s.tokens), time.Now().Add(s.life).UTC().Format(time.RFC3339))
}

// newWebIdentity is Kip as a pod on EKS: the environment and the token file are
// what EKS puts there, and STS is where endpoint says.
func newWebIdentity(t *testing.T, endpoint string) (sts *stsServer, ec2Sessions func() []string, tokenFile string, p *Provider) {
	t.Helper()
	sts = &stsServer{life: time.Hour}
	stsHTTP := httptest.NewServer(sts)
	t.Cleanup(stsHTTP.Close)
	var mu sync.Mutex
	var sessions []string
	ec2HTTP := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		sessions = append(sessions, r.Header.Get("X-Amz-Security-Token"))
		w.Header().Set("Content-Type", "text/xml")
		fmt.Fprint(w, `<DescribeInstancesResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><reservationSet/></DescribeInstancesResponse>`)
	}))
	t.Cleanup(ec2HTTP.Close)
	tokenFile = filepath.Join(t.TempDir(), "token")
	if err := os.WriteFile(tokenFile, []byte("first"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, value := range map[string]string{
		"AWS_ROLE_ARN": "arn:aws:iam::123456789012:role/kip", "AWS_WEB_IDENTITY_TOKEN_FILE": tokenFile, "AWS_ENDPOINT_URL": "", "AWS_ENDPOINT_URL_STS": "", endpoint: stsHTTP.URL,
		// Nothing of the machine that runs the test.
		"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_PROFILE": "", "AWS_EC2_METADATA_DISABLED": "true",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull,
	} {
		t.Setenv(name, value)
	}
	p, err := New(t.Context(), Config{
		Region: "us-west-2", EndpointURL: ec2HTTP.URL, ControllerID: "c/n/node",
		Catalogue: catalogue(t), Clock: clock.RealClock{}, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return sts, func() []string { mu.Lock(); defer mu.Unlock(); return append([]string(nil), sessions...) }, tokenFile, p
}

func TestWebIdentity(t *testing.T) {
	for _, endpoint := range []string{allEndpoints, "AWS_ENDPOINT_URL_STS"} {
		t.Run(endpoint, func(t *testing.T) { testWebIdentity(t, endpoint) })
	}
}

const allEndpoints = "AWS_ENDPOINT_URL"

func testWebIdentity(t *testing.T, endpoint string) {
	sts, sessions, _, p := newWebIdentity(t, endpoint)
	list := func() {
		t.Helper()
		if _, err := p.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	list()
	list()
	if sts.role != "arn:aws:iam::123456789012:role/kip" || len(sts.tokens) != 1 {
		t.Errorf("role %s was asked for with %v; credentials that are good are kept", sts.role, sts.tokens)
	}
	if diff := cmp.Diff([]string{"session-1", "session-1"}, sessions()); diff != "" {
		t.Errorf("EC2 was called with: -want +got:\n%s", diff)
	}
}

// TestWebIdentityTokenIsRotated: the kubelet writes a new token into the file
// long before the old one expires, and STS takes no expired one.
func TestWebIdentityTokenIsRotated(t *testing.T) {
	sts, sessions, tokenFile, p := newWebIdentity(t, allEndpoints)
	sts.life = -time.Second // every call needs new credentials
	for _, token := range []string{"first", "second"} {
		// As a kubelet does: the file's name comes to mean another file.
		next := tokenFile + ".new"
		if err := os.WriteFile(next, []byte(token), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(next, tokenFile); err != nil {
			t.Fatal(err)
		}
		if _, err := p.List(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if diff := cmp.Diff([]string{"first", "second"}, sts.tokens); diff != "" {
		t.Errorf("STS was shown: -want +got:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"session-1", "session-2"}, sessions()); diff != "" {
		t.Errorf("EC2 was called with: -want +got:\n%s", diff)
	}
}

// A role that cannot be assumed is not a right to EC2 that is missing.
func TestWebIdentityRefused(t *testing.T) {
	for code, message := range map[string]string{
		"AccessDenied":          "Not authorized to perform sts:AssumeRoleWithWebIdentity",
		"InvalidIdentityToken":  "No OpenIDConnect provider found in your account for https://oidc.example.com",
		"ExpiredTokenException": "Token expired",
	} {
		t.Run(code, func(t *testing.T) {
			sts, sessions, _, p := newWebIdentity(t, allEndpoints)
			sts.code, sts.message = code, message
			_, err := p.List(t.Context())
			if cloudprovider.KindOf(err) != cloudprovider.Denied {
				t.Errorf("the kind is %s: %v", cloudprovider.KindOf(err), err)
			}
			for _, want := range []string{"sts:AssumeRoleWithWebIdentity: " + code, message, "trust policy"} {
				if err == nil || !strings.Contains(err.Error(), want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			if len(sessions()) > 0 {
				t.Errorf("EC2 was called with %q", sessions())
			}
		})
	}
}
