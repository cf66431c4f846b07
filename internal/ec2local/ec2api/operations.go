package ec2api

import (
	"maps"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// operations are all operations by name.
var operations = map[string]operation{
	"AssociateIamInstanceProfile":          write((*API).associateProfile),
	"AssociateRouteTable":                  write((*API).associateRouteTable),
	"AuthorizeSecurityGroupEgress":         write((*API).authorizeEgress),
	"AuthorizeSecurityGroupIngress":        write((*API).authorizeIngress),
	"CreateRoute":                          write((*API).createRoute),
	"CreateRouteTable":                     write((*API).createRouteTable),
	"CreateSecurityGroup":                  write((*API).createSecurityGroup),
	"CreateSubnet":                         write((*API).createSubnet),
	"CreateTags":                           write((*API).createTags),
	"DeleteRoute":                          write((*API).deleteRoute),
	"DeleteRouteTable":                     write((*API).deleteRouteTable),
	"DeleteSecurityGroup":                  write((*API).deleteSecurityGroup),
	"DeleteSnapshot":                       write((*API).deleteSnapshot),
	"DeleteSubnet":                         write((*API).deleteSubnet),
	"DeleteTags":                           write((*API).deleteTags),
	"DeregisterImage":                      write((*API).deregisterImage),
	"DescribeAvailabilityZones":            read((*API).describeAvailabilityZones),
	"DescribeDhcpOptions":                  read((*API).describeDHCPOptions),
	"DescribeImages":                       read((*API).describeImages),
	"DescribeInstanceCreditSpecifications": read((*API).describeCredits),
	"DescribeInstanceStatus":               read((*API).describeInstanceStatus),
	"DescribeInstances":                    read((*API).describeInstances),
	"DescribeNetworkInterfaces":            read((*API).describeNetworkInterfaces),
	"DescribeRouteTables":                  read((*API).describeRouteTables),
	"DescribeSecurityGroups":               read((*API).describeSecurityGroups),
	"DescribeSnapshots":                    read((*API).describeSnapshots),
	"DescribeSpotPriceHistory":             read((*API).describeSpotPriceHistory),
	"DescribeSubnets":                      read((*API).describeSubnets),
	"DescribeTags":                         read((*API).describeTags),
	"DescribeVolumes":                      read((*API).describeVolumes),
	"DescribeVolumesModifications":         read((*API).describeVolumesModifications),
	"DescribeVpcs":                         read((*API).describeVpcs),
	"DisassociateRouteTable":               write((*API).disassociateRouteTable),
	"GetConsoleOutput":                     read((*API).getConsoleOutput),
	"ModifyInstanceAttribute":              write((*API).modifyInstanceAttribute),
	"ModifyInstanceCreditSpecification":    write((*API).modifyCredits),
	"ModifyVolume":                         write((*API).modifyVolume),
	"RegisterImage":                        write((*API).registerImage),
	"ReplaceRoute":                         write((*API).replaceRoute),
	"ReplaceRouteTableAssociation":         write((*API).replaceRouteTableAssociation),
	"RevokeSecurityGroupEgress":            write((*API).revokeEgress),
	"RevokeSecurityGroupIngress":           write((*API).revokeIngress),
	"RunInstances":                         runInstances,
	"StartInstances":                       write((*API).startInstances),
	"StopInstances":                        write((*API).stopInstances),
	"TerminateInstances":                   write((*API).terminateInstances),
}

// operation answers a call.
type operation func(a *API, c call) (query.Answerer, error)

// dryRun is embedded in every request.
type dryRun struct{ DryRun bool }

func (d dryRun) isDryRun() bool { return d.DryRun }

// read makes an operation that changes nothing of a handler that need not care for DryRun. Most of what is read is not a
// resource that a policy could name: the action must be allowed for * then.
func read[In interface{ isDryRun() bool }, Out query.Answerer](handle func(*API, *In) (Out, error)) operation {
	return func(a *API, c call) (query.Answerer, error) {
		var in In
		if err := query.Decode(c.form, &in); err != nil {
			return nil, err
		}
		about := []touched{{arn: "*"}}
		if one, ok := any(&in).(toucher); ok {
			about = one.touches(a)
		}
		if err := a.admit(c, about); err != nil {
			return nil, err
		}
		answer, err := handle(a, &in)
		if err == nil && in.isDryRun() {
			err = cloud.ErrDryRun()
		}
		return answer, err
	}
}

// write makes an operation of a handler that cares for DryRun by itself. The request says what it touches.
func write[In any, Request interface {
	*In
	toucher
}, Out query.Answerer](handle func(*API, *In) (Out, error)) operation {
	return func(a *API, c call) (query.Answerer, error) {
		var in In
		if err := query.Decode(c.form, &in); err != nil {
			return nil, err
		}
		if err := a.admit(c, Request(&in).touches(a)); err != nil {
			return nil, err
		}
		return handle(a, &in)
	}
}

// done is the answer of operations that say nothing but that they succeeded.
type done struct {
	query.Answer
	Return bool `xml:"return"`
}

func ok(err error) (*done, error) { return &done{Return: true}, err }

// Operations returns the names of all operations.
func Operations() []string { return slices.Sorted(maps.Keys(operations)) }
