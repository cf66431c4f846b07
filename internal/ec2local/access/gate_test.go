package access

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

// people are identities with one secret and one policy, by access key. An empty policy makes an administrator.
type people map[string]string

func (p people) Identify(accessKeyID, _ string) (string, Principal, error) {
	text, ok := p[accessKeyID]
	if !ok {
		return "", Principal{}, signature.ErrUnknownKey
	}
	return "secret", Principal{
		ARN: "arn:" + accessKeyID, Administrator: text == "",
		Policies: func() []*policy.Document {
			d, err := policy.Parse([]byte(text))
			if err != nil {
				panic(err)
			}
			return []*policy.Document{d}
		},
	}, nil
}

func caller(t *testing.T, g *Gate, accessKeyID string) (*Caller, error) {
	t.Helper()
	r := httptest.NewRequestWithContext(context.Background(), http.MethodGet, "http://localhost/", nil)
	sum := sha256.Sum256(nil)
	key := aws.Credentials{AccessKeyID: accessKeyID, SecretAccessKey: "secret"}
	if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hex.EncodeToString(sum[:]), "ec2", "us-west-2", now); err != nil {
		t.Fatal(err)
	}
	return g.Authenticate(t.Context(), r, nil)
}

func TestGate(t *testing.T) {
	g := New(Config{
		AccountID: "1", Now: func() time.Time { return now }, Serves: func(string, string) bool { return true },
		Identities: people{"boss": "", "guest": `{"Statement": [
			{"Effect": "Allow", "Action": ["ec2:Run*", "ec2:CreateTags"], "Resource": "*", "Condition": {"StringEquals": {"aws:RequestedRegion": "us-west-2"}}},
			{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*", "Condition": {"StringEquals": {"ec2:Region": "us-east-1"}}},
			{"Effect": "Deny", "Action": "ec2:RunInstances", "Resource": "arn:aws:ec2:*:*:subnet/bad"}]}`},
	})
	if _, err := caller(t, g, "stranger"); !errors.Is(err, signature.ErrUnknownKey) {
		t.Errorf("a stranger: %v", err)
	}
	boss, err := caller(t, g, "boss")
	if err != nil {
		t.Fatal(err)
	}
	guest, err := caller(t, g, "guest")
	if err != nil {
		t.Fatal(err)
	}
	run := func(subnet string) policy.Request {
		return policy.Request{Action: "ec2:RunInstances", Resource: "arn:aws:ec2:us-west-2:1:subnet/" + subnet}
	}
	tag := policy.Request{Action: "ec2:CreateTags", Resource: "arn:aws:ec2:us-west-2:1:instance/*"}
	describe := policy.Request{Action: "ec2:DescribeVpcs", Resource: "*"}
	steps := []struct {
		reason   string
		caller   *Caller
		requests []policy.Request
		want     string
	}{
		{"an administrator has no limits", boss, []policy.Request{run("bad"), describe}, ""},
		{"all resources are allowed", guest, []policy.Request{run("a"), run("b"), tag}, ""},
		{"one of the resources is not", guest, []policy.Request{run("a"), run("bad"), tag},
			"User: arn:guest is not authorized to perform: ec2:RunInstances on resource: arn:aws:ec2:us-west-2:1:subnet/bad with an explicit deny in an identity-based policy"},
		{"the condition does not hold", guest, []policy.Request{describe},
			"User: arn:guest is not authorized to perform: ec2:DescribeVpcs because no identity-based policy allows the ec2:DescribeVpcs action"},
	}
	for _, step := range steps {
		got := ""
		if err := step.caller.Authorize(step.requests...); err != nil {
			got = err.Error()
		}
		if got != step.want {
			t.Errorf("%s: got %q, want %q", step.reason, got, step.want)
		}
	}
	counts := []Count{
		{"ec2:CreateTags", "arn:guest", 1, 0}, {"ec2:DescribeVpcs", "arn:boss", 1, 0}, {"ec2:DescribeVpcs", "arn:guest", 0, 1},
		{"ec2:RunInstances", "arn:boss", 1, 0}, {"ec2:RunInstances", "arn:guest", 1, 1},
	}
	if diff := cmp.Diff(counts, g.Calls().Counts()); diff != "" {
		t.Errorf("counts (-want +got):\n%s", diff)
	}
	denials := []Denial{
		{now, "ec2:RunInstances", "arn:aws:ec2:us-west-2:1:subnet/bad", "arn:guest", true}, {now, "ec2:DescribeVpcs", "*", "arn:guest", false},
	}
	if diff := cmp.Diff(denials, g.Calls().Denials()); diff != "" {
		t.Errorf("denials (-want +got):\n%s", diff)
	}
	for range maxDenials + 1 {
		if err := guest.Authorize(describe); err == nil {
			t.Fatal("allowed")
		}
	}
	if n := len(g.Calls().Denials()); n != maxDenials {
		t.Errorf("%d denials are kept", n)
	}
	g.Calls().Forget()
	if n := len(g.Calls().Denials()) + len(g.Calls().Counts()); n != 0 {
		t.Errorf("%d are not forgotten", n)
	}
}
