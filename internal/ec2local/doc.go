// Package ec2local is an EC2 endpoint on one machine, with instances that are real.
//
// Its parts, from the wire inwards:
//
//	ec2api      the operations of EC2's Query API      imds        the metadata service that instances ask
//	query       the protocol's encoding                signature   who signed a request
//	access      who may call what, and who did         policy      what IAM policies allow
//	iam         roles, profiles, sessions              service     what the services beside EC2 share
//	iamapi, stsapi, ssmapi, ecrapi, ebsapi, efsapi, eksapi, meteringapi   the services beside EC2, on the same endpoint
//	snapshot    disks that ebsapi writes and images are registered of
//	cloud       the account: records, states, time     fault       what shall go wrong
//	machine     the seam to what runs machines; container and vpcnet run them as Linux namespaces, vm as virtual computers
//
// This package puts them together: one HTTP listener for the API and for what is ec2local's own (/healthz and, from
// loopback only, /_ec2local/), and one for the metadata service.
package ec2local
