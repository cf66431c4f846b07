// Package imds is a small client of the EC2 instance metadata service, version
// 2 (session tokens only), for the agent: a cell learns who it is from nobody
// else.
//
// It is written here instead of taken from the AWS SDK because the agent's
// memory is memory the user pays for beside every pod, and because a cell must
// cope with a network that comes up after the agent does: every read that the
// boot needs is repeated at short intervals until it succeeds.
package imds
