package ec2api

import (
	"fmt"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
)

// kindOf is the kind of resource that an ID is of, as ARNs name it.
func kindOf(id string) string {
	prefix, _, _ := strings.Cut(id, "-")
	return resourceTypes[prefix]
}

func number(n int) string { return fmt.Sprint(n) }

func (in *getConsoleOutputRequest) touches(a *API) []touched   { return a.existing(in.InstanceID) }
func (in *terminateInstancesRequest) touches(a *API) []touched { return a.existing(in.InstanceIDs...) }
func (in *stopInstancesRequest) touches(a *API) []touched      { return a.existing(in.InstanceIDs...) }
func (in *startInstancesRequest) touches(a *API) []touched     { return a.existing(in.InstanceIDs...) }

func (in *modifyVolumeRequest) touches(a *API) []touched { return a.existing(in.VolumeID) }

func (in *associateProfileRequest) touches(a *API) []touched {
	name, _ := in.Profile.nameOrARN() // what is wrong with it is told to those who may do it
	return append(a.existing(in.InstanceID), a.passRole(name)...)
}

func (in *modifyCreditsRequest) touches(a *API) []touched {
	var ids []string
	for _, s := range in.Specifications {
		ids = append(ids, s.InstanceID)
	}
	return a.existing(ids...)
}

func (in *modifyInstanceAttributeRequest) touches(a *API) []touched {
	all := a.existing(append([]string{in.InstanceID}, in.Groups...)...)
	attribute := in.Attribute
	switch {
	case in.Groups != nil:
		attribute = "GroupId"
	case in.SourceDestCheck != nil:
		attribute = "SourceDestCheck"
	case in.DisableAPITermination != nil:
		attribute = "DisableApiTermination"
	case in.ShutdownBehaviour != nil:
		attribute = "InstanceInitiatedShutdownBehavior"
	}
	all[0].keys.Set("ec2:Attribute", attribute)
	return all
}

func (in *createTagsRequest) touches(a *API) []touched { return tagging(a, in.ResourceIDs, in.Tags) }
func (in *deleteTagsRequest) touches(a *API) []touched { return tagging(a, in.ResourceIDs, in.Tags) }

// tagging is what a request touches that is about tags of resources.
func tagging(a *API, ids []string, tags []requestTag) []touched {
	all := a.existing(ids...)
	for n := range all {
		all[n].gets = cloud.Tags{}
		for _, t := range tags {
			all[n].gets[t.Key] = deref(t.Value, "")
		}
	}
	return all
}

func (in *createSecurityGroupRequest) touches(a *API) []touched {
	vpc := in.VPCID
	if vpc == "" {
		vpc = a.cloud.World().VPC.ID
	}
	group := touched{arn: a.arn("security-group", "*"), keys: a.vpcKeys(), made: true, gets: tagsOf(in.Tags, "security-group")}
	return append(a.existing(vpc), group)
}

func (in *deleteSecurityGroupRequest) touches(a *API) []touched { return a.group(in.ID, in.Name) }
func (in *permissionsRequest) touches(a *API) []touched         { return a.group(in.GroupID, in.GroupName) }

// group is the security group that a request names in either way.
func (a *API) group(id, name string) []touched {
	if found, err := a.groupID(id, name); err == nil {
		id = found
	}
	t := a.resource(id)
	t.arn = a.arn("security-group", id) // also if the ID is none
	return []touched{t}
}

// tagsOf are the tags that a request gives to resources of one kind. They are not checked yet.
func tagsOf(specs []tagSpecification, kind string) cloud.Tags {
	out := cloud.Tags{}
	for _, s := range specs {
		for _, t := range s.Tags {
			if s.ResourceType == kind {
				out[t.Key] = deref(t.Value, "")
			}
		}
	}
	return out
}

// touchedBy is what a launch touches: what it makes, and what that is made from.
func (a *API) touchedBy(l cloud.Launch) []touched {
	world := a.cloud.World()
	if l.SubnetID == "" {
		inZone := func(s cloud.Subnet) bool { return s.Default && (l.Zone == "" || s.Zone == l.Zone) }
		if n := slices.IndexFunc(world.Subnets, inZone); n >= 0 {
			l.SubnetID = world.Subnets[n].ID
		}
	}
	zone := a.cloud.Subnet(l.SubnetID).Zone
	if len(l.Groups) == 0 {
		for _, g := range world.SecurityGroups {
			if g.Name == "default" {
				l.Groups = []string{g.ID}
			}
		}
	}
	if l.Volume.SizeGiB == 0 {
		if image, err := a.cloud.Image(l.ImageID); err == nil {
			l.Volume.SizeGiB = image.VolumeGiB
		}
	}
	profile := l.ProfileARN
	if found, _, ok := a.profiles.ResolveProfile(profile); ok {
		profile = found
	}
	instance := a.instanceKeys(&cloud.Instance{
		Zone: zone, EBSOptimized: l.EBSOptimized, Spot: l.Spot, Type: l.Type, ProfileARN: profile, Metadata: l.Metadata,
	})
	delete(instance, "ec2:instanceid") // it has none yet
	nic := a.interfaceKeys(l.SubnetID, zone)
	nic.Set("ec2:AssociatePublicIpAddress", yesNo(l.PublicIP))
	all := []touched{
		{arn: a.arn("instance", "*"), keys: instance, made: true, gets: l.InstanceTags},
		{arn: a.arn("volume", "*"), keys: volumeKeys(l.Volume, zone), made: true, gets: l.VolumeTags},
		{arn: a.arn("network-interface", "*"), keys: nic, made: true, gets: l.InterfaceTags},
		a.imageTouched(l.ImageID),
		a.resource(l.SubnetID),
	}
	all = append(all, a.existing(l.Groups...)...)
	all = append(all, a.passRole(l.ProfileARN)...)
	if l.KeyName != "" {
		all = append(all, touched{arn: a.arn("key-pair", l.KeyName), keys: policy.Keys{}})
	}
	return all
}
