package aws

import "time"

// How long things that were read from EC2 are taken as true. A launch that
// fails because one of them changed drops it at once, so these bound only how
// late Kip notices what still works.
const (
	// imageTTL: a newer image that matches the configuration is used from then on.
	imageTTL = 10 * time.Minute

	// imageMissingFor is how often images are looked for while one that is
	// wanted is missing.
	imageMissingFor = 30 * time.Second

	// networkTTL: subnets that were added, CIDRs of the VPC, free addresses.
	// Between reads free addresses are counted down by Kip's own launches.
	networkTTL = 5 * time.Minute

	// fullRecheck is how often subnets are read while one of them looks full.
	fullRecheck = 15 * time.Second

	// securityGroupTTL: rules that somebody else changed in Kip's group are
	// put right again.
	securityGroupTTL = 10 * time.Minute

	// routeTTL: routes that somebody else removed are made again, and those
	// that had stood in the way are noticed to be gone.
	routeTTL = 30 * time.Second

	// subnetFullFor is how long a subnet that had no free address is left
	// alone. Terminated cells give theirs back within a minute or two.
	subnetFullFor = time.Minute

	// registryLoginMargin is what a login to ECR, good for 12 hours, must have
	// left to be given away: pulls of large images take a while.
	registryLoginMargin = time.Hour

	// registryRetry is how long a login that was refused is not asked for
	// again. A kubelet that fails to pull waits 10 seconds before it tries anew.
	registryRetry = 10 * time.Second
)
