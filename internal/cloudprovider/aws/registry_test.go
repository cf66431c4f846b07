package aws

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	clocktesting "k8s.io/utils/clock/testing"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func TestParseRegistry(t *testing.T) {
	for host, want := range map[string]ecrEndpoint{
		"123456789012.dkr.ecr.us-west-2.amazonaws.com":         {"us-west-2", false},
		"123456789012.dkr.ecr.us-gov-west-1.amazonaws.com":     {"us-gov-west-1", false},
		"123456789012.dkr.ecr-fips.us-east-1.amazonaws.com":    {"us-east-1", true},
		"123456789012.dkr.ecr.cn-northwest-1.amazonaws.com.cn": {"cn-northwest-1", false},
		"123456789012.dkr-ecr.ap-southeast-3.on.aws":           {"ap-southeast-3", false},
		"123456789012.dkr-ecr-fips.us-east-2.on.aws":           {"us-east-2", true},
	} {
		if got, ok := parseRegistry(host); !ok || got != want {
			t.Errorf("%s: %+v, %v; want %+v", host, got, ok, want)
		}
	}
	for name, host := range map[string]string{
		"public registries are open":      "public.ecr.aws",
		"another cloud's":                 "gcr.io",
		"docker.io":                       "",
		"an account has twelve digits":    "1234.dkr.ecr.us-west-2.amazonaws.com",
		"a name that only ends like one":  "123456789012.dkr.ecr.us-west-2.amazonaws.com.example.com",
		"a name that only begins so":      "x.123456789012.dkr.ecr.us-west-2.amazonaws.com",
		"a region that is another host":   "123456789012.dkr.ecr.evil.example.com/.amazonaws.com",
		"no region":                       "123456789012.dkr.ecr.s3.amazonaws.com",
		"China's has China's name":        "123456789012.dkr.ecr.cn-north-1.amazonaws.com",
		"and nobody else's":               "123456789012.dkr.ecr.us-west-2.amazonaws.com.cn",
		"names are in lower case":         "123456789012.DKR.ECR.us-west-2.amazonaws.com",
		"a port is another registry":      "123456789012.dkr.ecr.us-west-2.amazonaws.com:8443",
		"the API is no registry":          "api.ecr.us-west-2.amazonaws.com",
		"a line that goes on is no match": "123456789012.dkr.ecr.us-west-2.amazonaws.com\n",
	} {
		if got, ok := parseRegistry(host); ok {
			t.Errorf("%s: %q is taken for ECR's, %+v", name, host, got)
		}
	}
}

// ecrServer speaks as much of ECR's API as Kip uses.
type ecrServer struct {
	url string

	mu      sync.Mutex
	regions []string // of the requests, oldest first
	denied  bool
	broken  bool
	expires time.Time
	hold    chan struct{} // closed: answers come at once
}

var credentialScope = regexp.MustCompile(`Credential=[^/]+/[0-9]+/([a-z0-9-]+)/ecr/aws4_request`)

func newECRServer(t *testing.T) *ecrServer {
	t.Helper()
	e := &ecrServer{hold: make(chan struct{})}
	close(e.hold)
	s := httptest.NewServer(e)
	t.Cleanup(s.Close)
	e.url = s.URL
	// As an operator would point Kip to an endpoint inside the VPC.
	t.Setenv("AWS_ENDPOINT_URL_ECR", s.URL)
	return e
}

func (e *ecrServer) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	e.mu.Lock()
	defer e.mu.Unlock()
	<-e.hold
	scope := credentialScope.FindStringSubmatch(r.Header.Get("Authorization"))
	if scope == nil || r.Header.Get("X-Amz-Target") != "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken" {
		http.Error(w, "not a signed request for a token", http.StatusBadRequest)
		return
	}
	region := scope[1]
	e.regions = append(e.regions, region)
	w.Header().Set("Content-Type", "application/x-amz-json-1.1")
	switch {
	case e.denied:
		w.WriteHeader(http.StatusBadRequest)
		fmt.Fprint(w, `{"__type":"AccessDeniedException","Message":"User: arn:aws:sts::123456789012:assumed-role/kip/x is not authorized to perform: ecr:GetAuthorizationToken on resource: *"}`)
	case e.broken:
		fmt.Fprint(w, `{"authorizationData":[{"authorizationToken":"not base64"}]}`)
	default:
		token := base64.StdEncoding.EncodeToString([]byte("AWS:" + region + ":" + fmt.Sprint(len(e.regions))))
		_ = json.NewEncoder(w).Encode(map[string]any{"authorizationData": []any{map[string]any{
			"authorizationToken": token, "expiresAt": float64(e.expires.Unix()), "proxyEndpoint": "https://123456789012.dkr.ecr." + region + ".amazonaws.com",
		}}})
	}
}

func (e *ecrServer) set(f func()) {
	e.mu.Lock()
	defer e.mu.Unlock()
	f()
}

func (e *ecrServer) asked() []string {
	e.mu.Lock()
	defer e.mu.Unlock()
	return slices.Clone(e.regions)
}

// newRegistryProvider is a provider as Kip makes it, by a clock of the test.
func newRegistryProvider(t *testing.T, e *ecrServer) (*Provider, *clocktesting.FakeClock) {
	t.Helper()
	clk := clocktesting.NewFakeClock(time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC))
	e.expires = clk.Now().Add(12 * time.Hour)
	p, err := New(t.Context(), Config{
		Region: "us-west-2", AccessKeyID: "AKIA", SecretAccessKey: "secret", ControllerID: "c/n/node",
		Catalogue: catalogue(t), Clock: clk, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	return p, clk
}

const (
	oregon = "123456789012.dkr.ecr.us-west-2.amazonaws.com"
	ohio   = "210987654321.dkr.ecr.us-east-2.amazonaws.com"
)

func TestRegistryLogin(t *testing.T) {
	e := newECRServer(t)
	p, clk := newRegistryProvider(t, e)
	login := func(host string) *cloudprovider.RegistryLogin {
		t.Helper()
		l, err := p.RegistryLogin(t.Context(), host)
		if err != nil {
			t.Fatal(err)
		}
		return l
	}
	if l := login("public.ecr.aws"); l != nil || len(e.asked()) != 0 {
		t.Errorf("a public registry: %+v, asked %v", l, e.asked())
	}
	want := &cloudprovider.RegistryLogin{Username: "AWS", Password: "us-west-2:1", Expires: clk.Now().Add(12 * time.Hour)}
	got := login(oregon)
	got.Expires = got.Expires.UTC()
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	login(oregon)
	login("999999999999.dkr.ecr.us-west-2.amazonaws.com") // another account's, with the same role
	if diff := cmp.Diff([]string{"us-west-2"}, e.asked()); diff != "" {
		t.Errorf("a login that is good is not asked for again: %s", diff)
	}
	if l := login(ohio); l.Password != "us-east-2:2" {
		t.Errorf("another region's login is %+v", l)
	}
	if diff := cmp.Diff([]string{"us-west-2", "us-east-2"}, e.asked()); diff != "" {
		t.Errorf("a region's login comes from that region: %s", diff)
	}

	// Half of its life later it is renewed, and while that fails it stands in.
	clk.Step(7 * time.Hour)
	e.set(func() { e.denied = true })
	if l := login(oregon); l.Password != "us-west-2:1" {
		t.Errorf("while renewal fails the login is %+v", l)
	}
	n := len(e.asked())
	login(oregon)
	if len(e.asked()) != n {
		t.Error("a refused renewal was asked for again at once")
	}
	clk.Step(registryRetry)
	e.set(func() { e.denied, e.expires = false, clk.Now().Add(12*time.Hour) })
	if l := login(oregon); l.Password == "us-west-2:1" {
		t.Error("the old login is still given out")
	}

	// One that is about to expire is given to nobody.
	clk.Step(12*time.Hour - registryLoginMargin + time.Second)
	e.set(func() { e.denied = true })
	if l, err := p.RegistryLogin(t.Context(), oregon); err == nil {
		t.Errorf("an hour before its end the login %+v was given", l)
	}
}

func TestRegistryLoginRefused(t *testing.T) {
	e := newECRServer(t)
	p, clk := newRegistryProvider(t, e)
	e.set(func() { e.denied = true })
	_, err := p.RegistryLogin(t.Context(), oregon)
	if cloudprovider.KindOf(err) != cloudprovider.Denied || !strings.Contains(err.Error(), "ecr:GetAuthorizationToken: AccessDeniedException") {
		t.Errorf("the error must name the action: %v", err)
	}
	// A burst of pods costs one refused request in some seconds.
	for range 20 {
		if _, again := p.RegistryLogin(t.Context(), oregon); again == nil || again.Error() != err.Error() {
			t.Errorf("%v", again)
		}
	}
	if n := len(e.asked()); n != 1 {
		t.Errorf("%d requests", n)
	}
	clk.Step(registryRetry)
	e.set(func() { e.denied, e.broken = false, true })
	_, err = p.RegistryLogin(t.Context(), oregon)
	if cloudprovider.KindOf(err) != cloudprovider.Transient || strings.Contains(err.Error(), "not base64\"") {
		t.Errorf("an answer that is none: %v", err)
	}
	clk.Step(registryRetry)
	e.set(func() { e.broken = false })
	if _, err := p.RegistryLogin(t.Context(), oregon); err != nil {
		t.Errorf("once the right is there: %v", err)
	}
}

// TestRegistryLoginIsAskedForOnce: pods start together and pull together.
func TestRegistryLoginIsAskedForOnce(t *testing.T) {
	e := newECRServer(t)
	p, _ := newRegistryProvider(t, e)
	e.set(func() { e.hold = make(chan struct{}) })
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			if _, err := p.RegistryLogin(t.Context(), oregon); err != nil {
				t.Error(err)
			}
		})
	}
	// One that gives up does not spoil it for the others.
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := p.RegistryLogin(ctx, oregon); err == nil {
		t.Error("an ended context had an answer")
	}
	close(e.hold)
	wg.Wait()
	if n := len(e.asked()); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// TestRegistriesAreForgotten: pods may name any region, also ones that do not
// exist.
func TestRegistriesAreForgotten(t *testing.T) {
	e := newECRServer(t)
	p, clk := newRegistryProvider(t, e)
	if _, err := p.RegistryLogin(t.Context(), oregon); err != nil {
		t.Fatal(err)
	}
	e.set(func() { e.denied = true })
	for i := range 20 {
		for j := range 10 {
			host := fmt.Sprintf("123456789012.dkr.ecr.xx-%s-%d.amazonaws.com", strings.Repeat("a", i+1), j)
			if _, err := p.RegistryLogin(t.Context(), host); err == nil {
				t.Fatal("a region that refuses gave a login")
			}
		}
		clk.Step(registryRetry)
	}
	if n := len(p.regs.logins); n > 11+1 {
		t.Errorf("%d regions are remembered", n)
	}
	if _, ok := p.regs.logins[ecrEndpoint{region: "us-west-2"}]; !ok {
		t.Error("the one that works was forgotten")
	}
}
