package ec2api

import (
	"errors"
	"maps"
	"net/url"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// call is a request whose sender is known.
type call struct {
	action string
	form   url.Values
	caller *access.Caller
}

// toucher is a request about resources.
type toucher interface {
	// touches returns what the request reads, changes or makes. What does not exist is among it, without tags: whoever
	// may not touch it must not learn that it does not exist.
	touches(a *API) []touched
}

// touched is one resource of a request, as policies see it.
type touched struct {
	// action is what is done to it; the request's own action if empty.
	action string
	// arn is the resource's. What the request is to make has no ID yet, but *.
	arn string
	// keys are the condition keys that it has besides those of tags, region and account.
	keys policy.Keys
	// has are the tags that it has, gets are those that the request gives it.
	has, gets cloud.Tags
	// made means that the request makes it. To give it tags needs ec2:CreateTags then.
	made bool
}

// admit tells whether the caller may do what the call means to do to all that it touches.
func (a *API) admit(c call, all []touched) error {
	var requests []policy.Request
	for _, t := range all {
		keys := t.keys
		if keys == nil {
			keys = policy.Keys{}
		}
		keys.Set("ec2:Region", a.cloud.Region())
		keys.Tags("ec2:ResourceTag", t.has)
		keys.Tags("aws:ResourceTag", t.has)
		giveTags(keys, t.gets)
		action := t.action
		if action == "" {
			action = "ec2:" + c.action
		}
		requests = append(requests, policy.Request{Action: action, Resource: t.arn, Keys: keys})
		if t.made && len(t.gets) > 0 {
			keys = maps.Clone(keys)
			keys.Set("ec2:CreateAction", c.action)
			requests = append(requests, policy.Request{Action: "ec2:CreateTags", Resource: t.arn, Keys: keys})
		}
	}
	err := c.caller.Authorize(requests...)
	var denied *access.Denied
	if errors.As(err, &denied) {
		return query.Errorf("UnauthorizedOperation", "You are not authorized to perform this operation. %v", denied)
	}
	return err
}

// giveTags sets the keys about tags that a request gives.
func giveTags(keys policy.Keys, tags cloud.Tags) {
	if len(tags) > 0 {
		keys.Tags("aws:RequestTag", tags)
		keys.Set("aws:TagKeys", sortedKeys(tags)...)
	}
}

// arn is the ARN of a resource of EC2's.
func (a *API) arn(kind, id string) string {
	return "arn:aws:ec2:" + a.cloud.Region() + ":" + a.cloud.AccountID() + ":" + kind + "/" + id
}

// vpcKeys are the keys of what belongs to the VPC.
func (a *API) vpcKeys() policy.Keys {
	keys := policy.Keys{}
	keys.Set("ec2:Vpc", a.arn("vpc", a.cloud.World().VPC.ID))
	return keys
}

// existing are resources of any kind by their IDs.
func (a *API) existing(ids ...string) []touched {
	var out []touched
	for _, id := range ids {
		out = append(out, a.resource(id))
	}
	return out
}

// resource is the resource with an ID, of a kind that follows from the ID.
func (a *API) resource(id string) touched {
	kind := kindOf(id)
	t := touched{arn: a.arn(kind, id), keys: policy.Keys{}}
	switch kind {
	case "instance":
		if i, err := a.cloud.Instance(id); err == nil {
			t.has, t.keys = i.Tags, a.instanceKeys(i)
		}
	case "volume", "network-interface":
		instances := a.cloud.Instances()
		n := slices.IndexFunc(instances, func(i *cloud.Instance) bool { return id == i.Volume.ID || id == i.Interface.ID })
		if n < 0 {
			break
		}
		i := instances[n]
		if t.has, t.keys = i.Volume.Tags, volumeKeys(i.Volume, i.Zone); kind == "network-interface" {
			t.has, t.keys = i.Interface.Tags, a.interfaceKeys(i.Interface.SubnetID, i.Zone)
		}
	case "image":
		t = a.imageTouched(id)
	case "snapshot":
		t = touched{arn: "arn:aws:ec2:" + a.cloud.Region() + "::snapshot/" + id, keys: policy.Keys{}}
		if s, err := a.snapshots.Get(id); err == nil {
			t.has = s.Tags
		}
	case "subnet":
		t.has, t.keys = a.cloud.World().Tags[id], a.vpcKeys()
		t.keys.Set("ec2:AvailabilityZone", a.cloud.Subnet(id).Zone)
	default:
		t.has, t.keys = a.cloud.World().Tags[id], a.vpcKeys()
	}
	return t
}

func (a *API) instanceKeys(i *cloud.Instance) policy.Keys {
	keys := policy.Keys{}
	keys.Set("ec2:AvailabilityZone", i.Zone)
	keys.Set("ec2:EbsOptimized", yesNo(i.EBSOptimized))
	keys.Set("ec2:InstanceID", i.ID)
	keys.Set("ec2:InstanceMarketType", marketType(i.Spot != nil))
	keys.Set("ec2:InstanceType", i.Type)
	keys.Set("ec2:RootDeviceType", "ebs")
	keys.Set("ec2:Tenancy", "default")
	if i.ProfileARN != "" {
		keys.Set("ec2:InstanceProfile", i.ProfileARN)
	}
	metadataKeys(keys, i.Metadata)
	return keys
}

func marketType(spot bool) string {
	if spot {
		return "spot"
	}
	return "on-demand"
}

func metadataKeys(keys policy.Keys, m cloud.MetadataOptions) {
	words := func(yes bool, y, n string) string {
		if yes {
			return y
		}
		return n
	}
	keys.Set("ec2:MetadataHttpEndpoint", words(m.Enabled, "enabled", "disabled"))
	keys.Set("ec2:MetadataHttpPutResponseHopLimit", number(m.ResponseHopLimit))
	keys.Set("ec2:MetadataHttpTokens", words(m.TokensRequired, "required", "optional"))
}

func volumeKeys(v cloud.Volume, zone string) policy.Keys {
	keys := policy.Keys{}
	keys.Set("ec2:AvailabilityZone", zone)
	keys.Set("ec2:Encrypted", yesNo(v.Encrypted))
	keys.Set("ec2:VolumeIops", number(v.IOPS))
	keys.Set("ec2:VolumeSize", number(v.SizeGiB))
	keys.Set("ec2:VolumeThroughput", number(v.Throughput))
	keys.Set("ec2:VolumeType", v.Type)
	return keys
}

func (a *API) interfaceKeys(subnet, zone string) policy.Keys {
	keys := a.vpcKeys()
	keys.Set("ec2:AvailabilityZone", zone)
	keys.Set("ec2:Subnet", a.arn("subnet", subnet))
	return keys
}

// imageTouched is an image. ARNs of images, like those of snapshots, name no account.
func (a *API) imageTouched(id string) touched {
	t := touched{arn: "arn:aws:ec2:" + a.cloud.Region() + "::image/" + id, keys: policy.Keys{}}
	images, err := a.cloud.Images()
	n := slices.IndexFunc(images, func(i cloud.Image) bool { return i.ID == id })
	if err != nil || n < 0 {
		return t
	}
	t.has = images[n].Tags
	t.keys.Set("ec2:ImageID", id)
	t.keys.Set("ec2:Owner", images[n].OwnerID)
	t.keys.Set("ec2:Public", yesNo(a.isPublic(images[n])))
	t.keys.Set("ec2:RootDeviceType", "ebs")
	return t
}
