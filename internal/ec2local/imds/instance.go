package imds

import (
	"encoding/json"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/iam"
)

// Instance is what an instance can learn of itself.
type Instance struct {
	// Enabled is false if the instance wants no metadata service at all.
	Enabled bool
	// TokensRequired is true if the instance must use version 2.
	TokensRequired bool
	// ResponseHopLimit is how many hops a token travels.
	ResponseHopLimit int

	ID, ReservationID, Type, ImageID, AccountID string
	Architecture, Region, Zone, ZoneID          string
	HostName                                    string // with domain
	LaunchTime                                  time.Time
	LaunchIndex                                 int
	UserData                                    []byte
	ProfileARN, ProfileID                       string // empty without a profile
	// Role is the role of the instance profile, if there are credentials for it, and Session what makes them.
	Role    string
	Session iam.Session
	// Tags are nil unless the instance may read them.
	Tags map[string]string

	// Spot is true for spot instances.
	Spot bool
	// InterruptionNotice is when a spot instance will be terminated, RebalanceNotice is when a rebalance was
	// recommended; zero if that was not announced.
	InterruptionNotice, RebalanceNotice time.Time

	InterfaceID, SubnetID, VPCID, MAC string
	PrivateIPs                        []netip.Addr // the primary first
	PublicIP                          netip.Addr   // invalid if there is none
	SubnetCIDR, VPCCIDR               netip.Prefix
	GroupIDs, Groups                  []string // of security groups
}

// tree is all metadata by path. A path is a file; folders follow from the paths.
func (i Instance) tree() map[string]string {
	t := map[string]string{
		"dynamic/instance-identity/document": i.document(),

		"meta-data/ami-id":                         i.ImageID,
		"meta-data/ami-launch-index":               strconv.Itoa(i.LaunchIndex),
		"meta-data/ami-manifest-path":              "(unknown)",
		"meta-data/block-device-mapping/ami":       "/dev/xvda",
		"meta-data/block-device-mapping/root":      "/dev/xvda",
		"meta-data/hostname":                       i.HostName,
		"meta-data/instance-action":                "none",
		"meta-data/instance-id":                    i.ID,
		"meta-data/instance-life-cycle":            i.lifeCycle(),
		"meta-data/instance-type":                  i.Type,
		"meta-data/local-hostname":                 i.HostName,
		"meta-data/local-ipv4":                     i.PrivateIPs[0].String(),
		"meta-data/mac":                            i.MAC,
		"meta-data/placement/availability-zone":    i.Zone,
		"meta-data/placement/availability-zone-id": i.ZoneID,
		"meta-data/placement/region":               i.Region,
		"meta-data/profile":                        "default-hvm",
		"meta-data/reservation-id":                 i.ReservationID,
		"meta-data/security-groups":                strings.Join(i.Groups, "\n"),
		"meta-data/services/domain":                "amazonaws.com",
		"meta-data/services/partition":             "aws",
	}
	i.addInterface(t)
	if i.PublicIP.IsValid() {
		t["meta-data/public-ipv4"] = i.PublicIP.String()
	}
	if i.ProfileARN != "" {
		t["meta-data/iam/info"] = toJSON(map[string]string{
			"Code": "Success", "LastUpdated": formatTime(i.LaunchTime),
			"InstanceProfileArn": i.ProfileARN, "InstanceProfileId": i.ProfileID,
		})
	}
	if i.Role != "" {
		t["meta-data/iam/security-credentials/"+i.Role] = toJSON(map[string]string{
			"Code": "Success", "Type": "AWS-HMAC", "LastUpdated": formatTime(i.LaunchTime), "AccessKeyId": i.Session.AccessKeyID,
			"SecretAccessKey": i.Session.Secret, "Token": i.Session.Token, "Expiration": formatTime(i.Session.Expires),
		})
	}
	if !i.InterruptionNotice.IsZero() {
		at := formatTime(i.InterruptionNotice)
		t["meta-data/spot/instance-action"] = toJSON(map[string]string{"action": "terminate", "time": at})
		t["meta-data/spot/termination-time"] = at
	}
	if !i.RebalanceNotice.IsZero() {
		t["meta-data/events/recommendations/rebalance"] = toJSON(map[string]string{"noticeTime": formatTime(i.RebalanceNotice)})
	}
	for key, value := range i.Tags {
		t["meta-data/tags/instance/"+key] = value
	}
	return t
}

func (i Instance) addInterface(t map[string]string) {
	nic := "meta-data/network/interfaces/macs/" + i.MAC + "/"
	addresses := make([]string, 0, len(i.PrivateIPs))
	for _, a := range i.PrivateIPs {
		addresses = append(addresses, a.String())
	}
	maps.Copy(t, map[string]string{
		nic + "device-number":          "0",
		nic + "interface-id":           i.InterfaceID,
		nic + "local-hostname":         i.HostName,
		nic + "local-ipv4s":            strings.Join(addresses, "\n"),
		nic + "mac":                    i.MAC,
		nic + "owner-id":               i.AccountID,
		nic + "security-group-ids":     strings.Join(i.GroupIDs, "\n"),
		nic + "security-groups":        strings.Join(i.Groups, "\n"),
		nic + "subnet-id":              i.SubnetID,
		nic + "subnet-ipv4-cidr-block": i.SubnetCIDR.String(),
		nic + "vpc-id":                 i.VPCID,
		nic + "vpc-ipv4-cidr-block":    i.VPCCIDR.String(),
		nic + "vpc-ipv4-cidr-blocks":   i.VPCCIDR.String(),
	})
	if i.PublicIP.IsValid() {
		t[nic+"public-ipv4s"] = i.PublicIP.String()
		t[nic+"ipv4-associations/"+i.PublicIP.String()] = i.PrivateIPs[0].String()
	}
}

func (i Instance) lifeCycle() string {
	if i.Spot {
		return "spot"
	}
	return "on-demand"
}

// document is the identity document. There is no signature beside it: nobody could check it.
func (i Instance) document() string {
	return toJSON(map[string]any{
		"accountId": i.AccountID, "architecture": i.Architecture, "availabilityZone": i.Zone,
		"billingProducts": nil, "devpayProductCodes": nil, "marketplaceProductCodes": nil,
		"imageId": i.ImageID, "instanceId": i.ID, "instanceType": i.Type, "kernelId": nil,
		"pendingTime": formatTime(i.LaunchTime), "privateIp": i.PrivateIPs[0].String(),
		"ramdiskId": nil, "region": i.Region, "version": "2017-09-30",
	})
}

// lookup finds a file's content or a folder's list, in which folders end in a slash.
func lookup(tree map[string]string, path string) (content string, ok bool) {
	if content, ok := tree[path]; ok {
		return content, true
	}
	folder := path + "/"
	if path == "" {
		folder = ""
	}
	names := map[string]bool{}
	for file := range tree {
		rest, ok := strings.CutPrefix(file, folder)
		if !ok {
			continue
		}
		name, _, deeper := strings.Cut(rest, "/")
		if deeper {
			name += "/"
		}
		names[name] = true
	}
	if path == "" {
		names["user-data"] = true
	}
	// What is both a file and a folder, as a tag named like the start of another, is listed as the folder only.
	for name := range names {
		if names[name+"/"] {
			delete(names, name)
		}
	}
	if len(names) == 0 {
		return "", false
	}
	return strings.Join(slices.Sorted(maps.Keys(names)), "\n"), true
}

func formatTime(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

func toJSON(v any) string {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		panic("imds: " + err.Error()) // maps of strings and nil always can be written
	}
	return string(raw)
}
