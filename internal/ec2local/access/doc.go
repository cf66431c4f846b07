// Package access decides for all of ec2local's services who calls and whether they may: it authenticates requests by
// their signature, asks the caller's policies about every resource that a call touches, and remembers each verdict, so
// that a test can tell what was called, by whom, and what was denied.
package access
