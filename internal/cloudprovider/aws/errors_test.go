package aws

import (
	"errors"
	"fmt"
	"net/http"
	"strings"
	"testing"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

func TestClassify(t *testing.T) {
	for code, want := range map[string]cloudprovider.Kind{
		"InsufficientInstanceCapacity":      cloudprovider.InsufficientCapacity,
		"InsufficientCapacityOnHost":        cloudprovider.InsufficientCapacity,
		"SpotMaxPriceTooLow":                cloudprovider.InsufficientCapacity,
		"InsufficientFreeAddressesInSubnet": cloudprovider.SubnetFull,
		"MaxSpotInstanceCountExceeded":      cloudprovider.QuotaExceeded,
		"VcpuLimitExceeded":                 cloudprovider.VCPUQuotaExceeded,
		"Unsupported":                       cloudprovider.Unsupported,
		"UnauthorizedOperation":             cloudprovider.Denied,
		"AuthFailure":                       cloudprovider.Denied,
		"InvalidClientTokenId":              cloudprovider.Denied, // although it begins with Invalid
		"RequestLimitExceeded":              cloudprovider.Throttled,
		"InvalidAMIID.NotFound":             cloudprovider.InvalidConfiguration,
		"InvalidParameterValue":             cloudprovider.InvalidConfiguration,
		"InvalidSomethingNew.NotFound":      cloudprovider.InvalidConfiguration,
		"InvalidInstanceID.NotFound":        cloudprovider.NotFound,
		"IdempotentParameterMismatch":       cloudprovider.TokenConflict,
		"IdempotentInstanceTerminated":      cloudprovider.Terminated,
		"InternalError":                     cloudprovider.Transient,
		"ServiceUnavailable":                cloudprovider.Transient,
		"SomethingNew":                      cloudprovider.Transient,
		"":                                  cloudprovider.Transient,
	} {
		if got := classify(code); got != want {
			t.Errorf("%s is %s, want %s", code, got, want)
		}
	}
}

func TestWrap(t *testing.T) {
	if wrap("ec2:RunInstances", nil) != nil {
		t.Error("no error stays none")
	}
	denied := &smithy.GenericAPIError{Code: "UnauthorizedOperation", Message: "You are not authorized to perform this operation. " +
		"User: arn:aws:sts::1:assumed-role/kip is not authorized to perform: iam:PassRole on resource: arn:x. Encoded authorization failure message: abcdef"}
	got := wrap("ec2:RunInstances", fmt.Errorf("operation error EC2: RunInstances: %w", denied))
	if e, ok := errors.AsType[*cloudprovider.Error](got); !ok || e.Action != "iam:PassRole" || e.Kind != cloudprovider.Denied {
		t.Errorf("got %+v, want the action that is denied", got)
	}
	if strings.Contains(got.Error(), "Encoded") || !strings.Contains(got.Error(), "arn:x") {
		t.Errorf("text %q must be readable", got)
	}
}

func TestRetryer(t *testing.T) {
	answer := func(code string, status int) error {
		return &smithy.OperationError{ServiceID: "EC2", OperationName: "RunInstances", Err: &awshttp.ResponseError{
			ResponseError: &smithyhttp.ResponseError{
				Response: &smithyhttp.Response{Response: &http.Response{StatusCode: status}},
				Err:      &smithy.GenericAPIError{Code: code},
			},
		}}
	}
	for name, tc := range map[string]struct {
		reason       string
		err          error
		launch, read bool
	}{
		"capacity":    {reason: "EC2 sends it with 500, and it does not change in a second", err: answer("InsufficientInstanceCapacity", 500)},
		"throttled":   {reason: "launches have a pace of their own", err: answer("RequestLimitExceeded", 503), read: true},
		"unavailable": {reason: "the service's own trouble", err: answer("ServiceUnavailable", 503), launch: true, read: true},
		"denied":      {reason: "people must act", err: answer("UnauthorizedOperation", 403)},
		"no answer":   {reason: "the token makes it safe", err: &smithyhttp.RequestSendError{Err: errors.New("EOF")}, launch: true, read: true},
	} {
		t.Run(name, func(t *testing.T) {
			if got := (&retryer{newStandard(3), false}).IsErrorRetryable(tc.err); got != tc.launch {
				t.Errorf("%s: launch retried = %v, want %v", tc.reason, got, tc.launch)
			}
			if got := newReadRetryer().IsErrorRetryable(tc.err); got != tc.read {
				t.Errorf("%s: read retried = %v, want %v", tc.reason, got, tc.read)
			}
		})
	}
}
