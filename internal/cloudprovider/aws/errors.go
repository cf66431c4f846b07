package aws

import (
	"errors"
	"regexp"
	"strings"

	"github.com/aws/smithy-go"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// kinds says what EC2's error codes mean for Kip. Codes that begin with
// "Invalid" and are not listed are InvalidConfiguration; all others that are
// not listed are Transient, which is the kind that is safe to be wrong about:
// the request is repeated with its token.
//
// See https://docs.aws.amazon.com/AWSEC2/latest/APIReference/errors-overview.html
var kinds = map[string]cloudprovider.Kind{
	"InsufficientInstanceCapacity":         cloudprovider.InsufficientCapacity,
	"InsufficientHostCapacity":             cloudprovider.InsufficientCapacity,
	"InsufficientCapacityOnHost":           cloudprovider.InsufficientCapacity,
	"InsufficientReservedInstanceCapacity": cloudprovider.InsufficientCapacity,
	"InsufficientCapacity":                 cloudprovider.InsufficientCapacity,
	"InsufficientAddressCapacity":          cloudprovider.InsufficientCapacity,
	"ReservationCapacityExceeded":          cloudprovider.InsufficientCapacity,
	"UnfulfillableCapacity":                cloudprovider.InsufficientCapacity,
	// Kip bids the on-demand price, which is EC2's default: a higher spot
	// price is how EC2 says that there is no spot capacity.
	"SpotMaxPriceTooLow": cloudprovider.InsufficientCapacity,

	"InsufficientFreeAddressesInSubnet": cloudprovider.SubnetFull,

	"VcpuLimitExceeded":                  cloudprovider.VCPUQuotaExceeded,
	"InstanceLimitExceeded":              cloudprovider.QuotaExceeded,
	"MaxSpotInstanceCountExceeded":       cloudprovider.QuotaExceeded,
	"VolumeLimitExceeded":                cloudprovider.QuotaExceeded,
	"MaxIOPSLimitExceeded":               cloudprovider.QuotaExceeded,
	"NetworkInterfaceLimitExceeded":      cloudprovider.QuotaExceeded,
	"SecurityGroupLimitExceeded":         cloudprovider.QuotaExceeded,
	"RulesPerSecurityGroupLimitExceeded": cloudprovider.QuotaExceeded,
	"ResourceLimitExceeded":              cloudprovider.QuotaExceeded,
	"PendingVerification":                cloudprovider.QuotaExceeded,

	"RequestLimitExceeded":      cloudprovider.Throttled,
	"Throttling":                cloudprovider.Throttled,
	"ThrottlingException":       cloudprovider.Throttled,
	"ThrottledException":        cloudprovider.Throttled,
	"EC2ThrottledException":     cloudprovider.Throttled,
	"RequestThrottled":          cloudprovider.Throttled,
	"RequestThrottledException": cloudprovider.Throttled,
	"TooManyRequestsException":  cloudprovider.Throttled,
	"SlowDown":                  cloudprovider.Throttled,

	"UnauthorizedOperation":         cloudprovider.Denied,
	"AuthFailure":                   cloudprovider.Denied,
	"AccessDenied":                  cloudprovider.Denied,
	"AccessDeniedException":         cloudprovider.Denied,
	"CustomerNotEntitledException":  cloudprovider.Denied,
	"Blocked":                       cloudprovider.Denied,
	"OptInRequired":                 cloudprovider.Denied,
	"OperationNotPermitted":         cloudprovider.Denied,
	"InvalidClientTokenId":          cloudprovider.Denied,
	"InvalidAccessKeyId":            cloudprovider.Denied,
	"InvalidIdentityToken":          cloudprovider.Denied,
	"UnrecognizedClientException":   cloudprovider.Denied,
	"SignatureDoesNotMatch":         cloudprovider.Denied,
	"IncompleteSignature":           cloudprovider.Denied,
	"MissingAuthenticationToken":    cloudprovider.Denied,
	"ExpiredToken":                  cloudprovider.Denied,
	"ExpiredTokenException":         cloudprovider.Denied,
	"RequestExpired":                cloudprovider.Denied,
	"InvalidParameter.AccessDenied": cloudprovider.Denied,

	"Unsupported":                   cloudprovider.Unsupported,
	"UnsupportedOperation":          cloudprovider.Unsupported,
	"PlatformNotSupportedException": cloudprovider.Unsupported,
	"UnsupportedHostConfiguration":  cloudprovider.Unsupported,
	"UnsupportedInstanceAttribute":  cloudprovider.Unsupported,
	"PrivateIpAddressLimitExceeded": cloudprovider.Unsupported,
	"InvalidInstanceType":           cloudprovider.Unsupported,
	"EncryptedVolumesNotSupported":  cloudprovider.Unsupported,

	"MissingParameter":                        cloudprovider.InvalidConfiguration,
	"UnknownParameter":                        cloudprovider.InvalidConfiguration,
	"ValidationError":                         cloudprovider.InvalidConfiguration,
	"VPCIdNotSpecified":                       cloudprovider.InvalidConfiguration,
	"DefaultVpcDoesNotExist":                  cloudprovider.InvalidConfiguration,
	"SecurityGroupsPerInterfaceLimitExceeded": cloudprovider.InvalidConfiguration,
	"SecurityGroupsPerInstanceLimitExceeded":  cloudprovider.InvalidConfiguration,
	"NoSuchEntity":                            cloudprovider.InvalidConfiguration,

	"InvalidInstanceID.NotFound":  cloudprovider.NotFound,
	"InvalidInstanceID.Malformed": cloudprovider.NotFound,
	"InvalidInstanceID":           cloudprovider.NotFound,

	"IdempotentInstanceTerminated": cloudprovider.Terminated,
	"IdempotentParameterMismatch":  cloudprovider.TokenConflict,

	"RouteLimitExceeded": cloudprovider.QuotaExceeded,

	"InvalidState":                   cloudprovider.Transient,
	"InvalidSubnetID.Pending":        cloudprovider.Transient,
	"InvalidNetworkInterfaceID.Busy": cloudprovider.Transient,
	// An instance that is just coming up, or an interface that cannot be seen
	// yet.
	"IncorrectInstanceState":             cloudprovider.Transient,
	"IncorrectState":                     cloudprovider.Transient,
	"InvalidNetworkInterfaceID.NotFound": cloudprovider.Transient,
	// Somebody was faster; the next look shows who.
	"RouteAlreadyExists": cloudprovider.Transient,
}

// classify is the one place where EC2's codes become kinds.
func classify(code string) cloudprovider.Kind {
	if k, ok := kinds[code]; ok {
		return k
	}
	if strings.HasPrefix(code, "Invalid") {
		return cloudprovider.InvalidConfiguration
	}
	return cloudprovider.Transient
}

// performed finds the action that IAM names in its refusals: it may be another
// one than was called, as iam:PassRole for RunInstances.
var performed = regexp.MustCompile(`not authorized to perform: ([a-z0-9-]+:[A-Za-z]+)`)

// wrap turns an error of the SDK into one of the seam. It returns nil for nil.
func wrap(action string, err error) error {
	if err == nil {
		return nil
	}
	if ours, ok := errors.AsType[*cloudprovider.Error](err); ok {
		return ours // Kip kept to its pace: nothing was asked
	}
	e := &cloudprovider.Error{Kind: cloudprovider.Transient, Action: called(action, err), Err: err}
	if answer, ok := errors.AsType[smithy.APIError](err); ok {
		e.Code = answer.ErrorCode()
		e.Kind = classify(e.Code)
		// What follows is for sts:DecodeAuthorizationMessage, a kilobyte of it.
		e.Message, _, _ = strings.Cut(answer.ErrorMessage(), " Encoded authorization failure message")
		if m := performed.FindStringSubmatch(e.Message); e.Kind == cloudprovider.Denied && m != nil {
			e.Action = m[1]
		}
		if e.Kind == cloudprovider.Denied && e.Action == assumeRole {
			// STS says no more than that, and people look at the wrong policy.
			e.Message += "; the role that Kip was given does not exist, or its trust policy does not name the cluster's identity provider and Kip's service account"
		}
	}
	return e
}

// assumeRole is how a service account's token becomes credentials.
const assumeRole = "sts:AssumeRoleWithWebIdentity"

// called is the action that failed: the one that was called, or that of STS
// which was to get the credentials for it.
func called(action string, err error) string {
	for op, ok := errors.AsType[*smithy.OperationError](err); ok; op, ok = errors.AsType[*smithy.OperationError](op.Err) {
		if op.Service() == "STS" {
			return "sts:" + op.Operation()
		}
	}
	return action
}

// invalid is an error of the configuration that Kip finds by itself.
func invalid(action, message string) error {
	return &cloudprovider.Error{Kind: cloudprovider.InvalidConfiguration, Action: action, Message: message}
}

// codeOf is EC2's code in an error that wrap made, "" if there was none.
func codeOf(err error) string {
	if e, ok := errors.AsType[*cloudprovider.Error](err); ok {
		return e.Code
	}
	return ""
}
