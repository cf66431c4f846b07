// Package aws launches cells on EC2. It is the only package of Kip that speaks
// to AWS.
//
// One RunInstances call makes a whole cell: instance, encrypted root volume,
// network interface with the pod's second address, tags on all three. There is
// nothing to be done afterwards that a crash could leave undone, and nothing
// is made that does not end with the instance. The exception are routes, for
// pods that ask for them: see routes.go and cloudprovider.Router.
//
// What a launch needs to know of the account (subnets and their free
// addresses, the VPC's networks, the image, Kip's security group) is read when
// first needed and kept for a while: see ttl.go. Kip's own security group is
// the only lasting thing that this package creates.
//
// Only actions that the documented IAM policy grants are used, and those of the
// optional one, without which Kip does less: see optional in calls.go. Errors of EC2
// become kinds of cloudprovider in one place: see errors.go.
package aws
