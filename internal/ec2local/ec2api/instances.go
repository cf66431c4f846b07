package ec2api

import (
	"fmt"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeInstancesRequest struct {
	dryRun
	paging
	InstanceIDs []string `query:"InstanceId"`
	Filters     []filter `query:"Filter"`
}

type describeInstancesAnswer struct {
	query.Answer
	Reservations query.Set[reservation] `xml:"reservationSet"`
	NextToken    string                 `xml:"nextToken,omitempty"`
}

func (a *API) describeInstances(in *describeInstancesRequest) (*describeInstancesAnswer, error) {
	if err := in.notBoth(in.InstanceIDs, "instancesSet"); err != nil {
		return nil, err
	}
	instances, err := a.selectInstances(in.InstanceIDs, in.Filters)
	if err != nil {
		return nil, err
	}
	instances, next, err := page(in.paging, instances, instanceKey)
	if err != nil {
		return nil, err
	}
	answer := &describeInstancesAnswer{NextToken: next}
	world := a.cloud.World()
	sets := &answer.Reservations.Items
	for _, i := range instances {
		// Instances of one reservation follow each other.
		if n := len(*sets); n == 0 || (*sets)[n-1].ID != i.ReservationID {
			*sets = append(*sets, reservation{ID: i.ReservationID, OwnerID: a.cloud.AccountID()})
		}
		last := &(*sets)[len(*sets)-1]
		last.Instances.Items = append(last.Instances.Items, a.instance(i, world))
	}
	return answer, nil
}

// instanceKey orders instances by age.
func instanceKey(i *cloud.Instance) string { return fmt.Sprintf("%019d/%06d", i.Seq, i.Index) }

// selectInstances returns the instances with these IDs, or all, that the filters hold for, the oldest first.
func (a *API) selectInstances(ids []string, filters []filter) ([]*cloud.Instance, error) {
	instances := a.cloud.Instances()
	instances, err := selectByID(instances, ids, "i", func(i *cloud.Instance) string { return i.ID })
	if err != nil {
		return nil, err
	}
	return selectBy(instances, filters, a.instanceFields(), func(i *cloud.Instance) cloud.Tags { return i.Tags })
}

// selectByID returns the resources with these IDs, or all if there are none. An unknown ID is an error.
func selectByID[T any](resources []T, ids []string, kind string, id func(T) string) ([]T, error) {
	if len(ids) == 0 {
		return resources, nil
	}
	wanted := make(map[string]bool, len(ids))
	for _, s := range ids {
		wanted[s] = true
	}
	var out []T
	for _, r := range resources {
		if wanted[id(r)] {
			out = append(out, r)
			delete(wanted, id(r))
		}
	}
	for _, s := range ids {
		if wanted[s] {
			return nil, cloud.NotFound(kind, s)
		}
	}
	return out, nil
}

// instanceFields are what instances can be filtered by.
func (a *API) instanceFields() fields[*cloud.Instance] {
	type in = *cloud.Instance
	world := a.cloud.World()
	nic := func(f func(*cloud.Interface) []string) func(in) []string {
		return func(i in) []string {
			if !i.HasMachine() {
				return nil
			}
			return f(&i.Interface)
		}
	}
	addresses := nic(func(n *cloud.Interface) []string { return texts(n.Addresses()) })
	primary := nic(func(n *cloud.Interface) []string { return []string{n.Primary.String()} })
	subnet := nic(func(n *cloud.Interface) []string { return []string{n.SubnetID} })
	vpc := nic(func(*cloud.Interface) []string { return []string{world.VPC.ID} })
	groups := nic(func(n *cloud.Interface) []string { return n.Groups })
	groupNames := nic(func(n *cloud.Interface) []string { return groupNames(n.Groups, world) })
	check := nic(func(n *cloud.Interface) []string { return []string{yesNo(n.SourceDestCheck)} })
	dns := nic(func(n *cloud.Interface) []string { return []string{a.cloud.PrivateDNSName(n.Primary)} })
	public := nic(func(n *cloud.Interface) []string {
		if !n.Public.IsValid() {
			return nil
		}
		return []string{n.Public.String()}
	})
	return fields[in]{
		"architecture":        one(func(i in) string { return i.Architecture }),
		"availability-zone":   one(func(i in) string { return i.Zone }),
		"client-token":        one(func(i in) string { return i.ClientToken }),
		"image-id":            one(func(i in) string { return i.ImageID }),
		"instance-id":         one(func(i in) string { return i.ID }),
		"instance-state-code": one(func(i in) string { return fmt.Sprint(stateCodes[i.State]) }),
		"instance-state-name": one(func(i in) string { return string(i.State) }),
		"instance-type":       one(func(i in) string { return i.Type }),
		"key-name":            one(func(i in) string { return i.KeyName }),
		"launch-index":        one(func(i in) string { return fmt.Sprint(i.Index) }),
		"launch-time":         one(func(i in) string { return formatTime(i.LaunchTime) }),
		"owner-id":            constant[in](a.cloud.AccountID()),
		"reservation-id":      one(func(i in) string { return i.ReservationID }),
		"root-device-name":    constant[in](cloud.RootDevice),
		"root-device-type":    constant[in]("ebs"),
		"state-reason-code":   one(func(i in) string { return i.Reason.Code }),
		"virtualization-type": constant[in]("hvm"),
		"tenancy":             constant[in]("default"),
		"hypervisor":          constant[in]("xen"),
		"instance-lifecycle": func(i in) []string {
			if i.Spot == nil {
				return nil
			}
			return []string{"spot"}
		},
		"spot-instance-request-id": func(i in) []string {
			if i.Spot == nil {
				return nil
			}
			return []string{i.Spot.RequestID}
		},
		"iam-instance-profile.arn": one(func(i in) string { return i.ProfileARN }),
		"metadata-options.http-tokens": one(func(i in) string {
			return httpTokens(i.Metadata)
		}),

		"block-device-mapping.volume-id":   one(func(i in) string { return i.Volume.ID }),
		"block-device-mapping.device-name": one(func(i in) string { return i.Volume.Device }),
		"dns-name":                         constant[in](""),
		"private-dns-name":                 dns,
		"private-ip-address":               primary,
		"ip-address":                       public,
		"vpc-id":                           vpc,
		"subnet-id":                        subnet,
		"source-dest-check":                check,
		"group-id":                         groups,
		"group-name":                       groupNames,
		"instance.group-id":                groups,
		"instance.group-name":              groupNames,
		"network-interface.addresses.private-ip-address":     addresses,
		"network-interface.association.public-ip":            public,
		"network-interface.availability-zone":                one(func(i in) string { return i.Zone }),
		"network-interface.group-id":                         groups,
		"network-interface.group-name":                       groupNames,
		"network-interface.mac-address":                      nic(func(n *cloud.Interface) []string { return []string{n.MAC} }),
		"network-interface.network-interface-id":             nic(func(n *cloud.Interface) []string { return []string{n.ID} }),
		"network-interface.owner-id":                         constant[in](a.cloud.AccountID()),
		"network-interface.private-dns-name":                 dns,
		"network-interface.private-ip-address":               addresses,
		"network-interface.source-dest-check":                check,
		"network-interface.status":                           nic(func(*cloud.Interface) []string { return []string{"in-use"} }),
		"network-interface.subnet-id":                        subnet,
		"network-interface.vpc-id":                           vpc,
		"network-interface.description":                      nic(func(n *cloud.Interface) []string { return []string{n.Description} }),
		"network-interface.attachment.device-index":          nic(func(*cloud.Interface) []string { return []string{"0"} }),
		"network-interface.attachment.attachment-id":         nic(func(n *cloud.Interface) []string { return []string{n.AttachmentID} }),
		"network-interface.addresses.primary":                nic(func(*cloud.Interface) []string { return []string{"true"} }),
		"network-interface.addresses.association.public-ip":  public,
		"network-interface.attachment.delete-on-termination": nic(func(*cloud.Interface) []string { return []string{"true"} }),
		"network-interface.attachment.instance-owner-id":     constant[in](a.cloud.AccountID()),
		"network-interface.attachment.status":                nic(func(*cloud.Interface) []string { return []string{"attached"} }),
		"network-interface.requester-managed":                nic(func(*cloud.Interface) []string { return []string{"false"} }),
	}
}

// texts writes things as they write themselves.
func texts[T fmt.Stringer](in []T) []string {
	out := make([]string, 0, len(in))
	for _, s := range in {
		out = append(out, s.String())
	}
	return out
}

func groupNames(ids []string, w cloud.World) []string {
	out := make([]string, 0, len(ids))
	for _, id := range ids {
		out = append(out, w.SecurityGroups[id].Name)
	}
	return slices.Clip(out)
}
