// Package cloud is the account that ec2local's API shows: one VPC with its subnets, security groups, images, and the
// instances with their volumes and interfaces, together with what brings instances to life and ends them.
//
// Instances are records with a state, and each has one goroutine, its driver, that works towards what the record says:
// a pending instance gets a machine, one that is shutting down loses it. Operations only change records. A change is
// written to disk before it shows and before the driver acts on it, one file per record, replaced as a whole; so an
// ec2local that was killed at any point finds on its next start what it had begun, takes its machines up again and
// finishes the rest. Files survive the end of the process; nobody asks them to survive a power failure.
//
// A published record is never modified: a change publishes a new one. Readers may therefore keep what they were given.
//
// Refusals are of type *query.Error and carry EC2's codes.
package cloud
