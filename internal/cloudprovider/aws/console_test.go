package aws

import (
	"context"
	"encoding/base64"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func TestConsole(t *testing.T) {
	e := newEndpoint(t)
	p := e.provider(t, "a")
	in, err := p.Create(t.Context(), request("token"))
	if err != nil {
		t.Fatal(err)
	}
	for got := in; got.State != cloudprovider.StateRunning; {
		if got, err = p.Get(t.Context(), in.ID); err != nil {
			t.Fatal(err)
		}
	}
	text, err := p.Console(t.Context(), in.ID)
	if err != nil || !strings.Contains(text, "started") {
		t.Errorf("the console has %q, %v", text, err)
	}
	if _, err := p.Console(t.Context(), "i-0123456789abcdef0"); !cloudprovider.IsNotFound(err) {
		t.Errorf("of an instance that does not exist: %v", err)
	}
}

// TestConsoleDenied: the right is optional, and that it lacks is no alarm.
func TestConsoleDenied(t *testing.T) {
	e := newEndpoint(t)
	e.fault(t, `[{"action":"GetConsoleOutput","code":"UnauthorizedOperation"}]`)
	cfg := e.provider(t, "a").cfg
	cfg.Metrics = prometheus.NewRegistry()
	cfg.Denied = func(action, message string) { t.Errorf("told: %s, %s", action, message) }
	p, err := New(t.Context(), cfg)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Console(t.Context(), "i-0123456789abcdef0"); denied(err) != "ec2:GetConsoleOutput" {
		t.Errorf("got %v", err)
	}
}

// oldConsole is EC2 about an instance that is not built on Nitro.
type oldConsole struct{ api }

func (oldConsole) GetConsoleOutput(_ context.Context, in *ec2.GetConsoleOutputInput, _ ...func(*ec2.Options)) (*ec2.GetConsoleOutputOutput, error) {
	if aws.ToBool(in.Latest) {
		return nil, &smithy.GenericAPIError{Code: "UnsupportedOperation", Message: "This instance type does not support retrieving the latest console logs."}
	}
	return &ec2.GetConsoleOutputOutput{Output: aws.String(base64.StdEncoding.EncodeToString([]byte("grub")))}, nil
}

func TestConsoleOfOldTypes(t *testing.T) {
	p, _, _ := newStub(t, nil)
	p.ec2 = oldConsole{}
	if text, err := p.Console(t.Context(), "i-1"); err != nil || text != "grub" {
		t.Errorf("got %q, %v", text, err)
	}
}
