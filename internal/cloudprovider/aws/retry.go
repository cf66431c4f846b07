package aws

import (
	"errors"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// retryer repeats a request only where the same request may have another
// answer a moment later. The SDK's own would repeat capacity errors, which EC2
// sends with status 500, while another offering waits to be tried.
type retryer struct {
	aws.RetryerV2
	throttles bool // repeat throttled requests
}

func newStandard(attempts int) aws.RetryerV2 {
	return retry.NewStandard(func(o *retry.StandardOptions) {
		o.MaxAttempts = attempts
		o.MaxBackoff = 2 * time.Second
	})
}

// newReadRetryer is for everything but launches.
func newReadRetryer() aws.Retryer { return &retryer{newStandard(4), true} }

// launchRetryer is for RunInstances: a lost answer is asked for again with the
// same ClientToken; being throttled is the caller's business, who has other
// cells to launch and a pace to keep.
func launchRetryer() func(*ec2.Options) {
	return func(o *ec2.Options) { o.Retryer = &retryer{newStandard(3), false} }
}

// IsErrorRetryable implements aws.Retryer.
func (r *retryer) IsErrorRetryable(err error) bool {
	if _, ours := errors.AsType[*cloudprovider.Error](err); ours {
		return false // it waited for its pace long enough
	}
	if answer, ok := errors.AsType[smithy.APIError](err); ok {
		switch classify(answer.ErrorCode()) {
		case cloudprovider.Transient:
		case cloudprovider.Throttled:
			return r.throttles
		default:
			return false
		}
	}
	return r.RetryerV2.IsErrorRetryable(err)
}
