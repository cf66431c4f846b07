package ec2local

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
)

// servicesCLI is the AWS CLI for all services. Commands begin with the service.
type servicesCLI struct{ *cli }

// cli is the AWS CLI with somebody's credentials. Its answers go through the endpoint's recorder.
func (e *endpoint) cli(t *testing.T, credentials aws.Credentials) *servicesCLI {
	t.Helper()
	return &servicesCLI{startCLI(t, e, e.recorder, credentials)}
}

// run runs a command that succeeds, and reads its answer unless result is nil.
func (c *servicesCLI) run(t *testing.T, result any, args ...string) {
	t.Helper()
	status, out, problems := c.try(args...)
	if status != 0 {
		t.Fatalf("aws %v: status %d: %s", args, status, problems)
	}
	if result == nil {
		return
	}
	if err := json.Unmarshal([]byte(out), result); err != nil {
		t.Fatalf("aws %v: %v in %s", args, err, out)
	}
}

// refused runs a command that is refused with a code.
func (c *servicesCLI) refused(t *testing.T, code string, args ...string) {
	t.Helper()
	if status, _, problems := c.try(args...); status == 0 || !strings.Contains(problems, "("+code+")") {
		t.Errorf("aws %v: status %d: %s; want %s", args, status, problems, code)
	}
}
