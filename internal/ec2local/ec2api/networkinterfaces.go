package ec2api

import (
	"cmp"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// interfaceFacts are what an interface says of itself wherever it is shown.
type interfaceFacts struct {
	ID              string                    `xml:"networkInterfaceId"`
	SubnetID        string                    `xml:"subnetId"`
	VPCID           string                    `xml:"vpcId"`
	Description     string                    `xml:"description"`
	OwnerID         string                    `xml:"ownerId"`
	Status          string                    `xml:"status"`
	MAC             string                    `xml:"macAddress"`
	PrivateIP       string                    `xml:"privateIpAddress"`
	PrivateDNSName  string                    `xml:"privateDnsName"`
	SourceDestCheck bool                      `xml:"sourceDestCheck"`
	Groups          query.Set[group]          `xml:"groupSet"`
	Association     *association              `xml:"association"`
	PrivateIPs      query.Set[privateAddress] `xml:"privateIpAddressesSet"`
	IPv6            query.Set[struct{}]       `xml:"ipv6AddressesSet"`
	Type            string                    `xml:"interfaceType"`
}

// instanceInterface is an interface as part of its instance.
type instanceInterface struct {
	interfaceFacts
	Attachment attachment `xml:"attachment"`
}

// networkInterface is an interface of its own.
type networkInterface struct {
	interfaceFacts
	Zone             string             `xml:"availabilityZone"`
	RequesterManaged bool               `xml:"requesterManaged"`
	Attachment       attachmentOfOthers `xml:"attachment"`
	Tags             query.Set[tag]     `xml:"tagSet"`
}

type attachment struct {
	ID                  string     `xml:"attachmentId"`
	DeviceIndex         int        `xml:"deviceIndex"`
	Status              string     `xml:"status"`
	Time                query.Time `xml:"attachTime"`
	DeleteOnTermination bool       `xml:"deleteOnTermination"`
	CardIndex           int        `xml:"networkCardIndex"`
}

type attachmentOfOthers struct {
	attachment
	InstanceID string `xml:"instanceId"`
	OwnerID    string `xml:"instanceOwnerId"`
}

type association struct {
	PublicIP  string `xml:"publicIp"`
	PublicDNS string `xml:"publicDnsName"`
	OwnerID   string `xml:"ipOwnerId"`
}

type privateAddress struct {
	Address     string       `xml:"privateIpAddress"`
	DNSName     string       `xml:"privateDnsName"`
	Primary     bool         `xml:"primary"`
	Association *association `xml:"association"`
}

// interfaceFacts writes the interface of an instance that has one.
func (a *API) interfaceFacts(i *cloud.Instance, w cloud.World) interfaceFacts {
	nic := &i.Interface
	out := interfaceFacts{
		ID: nic.ID, SubnetID: nic.SubnetID, VPCID: w.VPC.ID, Description: nic.Description,
		OwnerID: a.cloud.AccountID(), Status: "in-use", MAC: nic.MAC,
		PrivateIP: nic.Primary.String(), PrivateDNSName: a.cloud.PrivateDNSName(nic.Primary),
		SourceDestCheck: nic.SourceDestCheck, Groups: groupSet(nic.Groups, w), Type: "interface",
	}
	if nic.Public.IsValid() {
		out.Association = &association{PublicIP: nic.Public.String(), OwnerID: "amazon"}
	}
	for n, addr := range nic.Addresses() {
		p := privateAddress{Address: addr.String(), DNSName: a.cloud.PrivateDNSName(addr), Primary: n == 0}
		if n == 0 {
			p.Association = out.Association
		}
		out.PrivateIPs.Items = append(out.PrivateIPs.Items, p)
	}
	return out
}

func attachmentOf(nic *cloud.Interface) attachment {
	return attachment{
		ID: nic.AttachmentID, Status: "attached", Time: query.Time(nic.Attached), DeleteOnTermination: true,
	}
}

func (a *API) instanceInterface(i *cloud.Instance, w cloud.World) instanceInterface {
	return instanceInterface{interfaceFacts: a.interfaceFacts(i, w), Attachment: attachmentOf(&i.Interface)}
}

type describeNetworkInterfacesRequest struct {
	dryRun
	paging
	IDs     []string `query:"NetworkInterfaceId"`
	Filters []filter `query:"Filter"`
}

type describeNetworkInterfacesAnswer struct {
	query.Answer
	Interfaces query.Set[networkInterface] `xml:"networkInterfaceSet"`
	NextToken  string                      `xml:"nextToken,omitempty"`
}

func (a *API) describeNetworkInterfaces(in *describeNetworkInterfacesRequest) (*describeNetworkInterfacesAnswer, error) {
	if err := in.notBoth(in.IDs, "networkInterfaceIds"); err != nil {
		return nil, err
	}
	id := func(i *cloud.Instance) string { return i.Interface.ID }
	owners, err := selectByID(a.owners(id), in.IDs, "eni", id)
	if err != nil {
		return nil, err
	}
	owners, err = selectBy(owners, in.Filters, a.interfaceFields(),
		func(i *cloud.Instance) cloud.Tags { return i.Interface.Tags })
	if err != nil {
		return nil, err
	}
	owners, next, err := page(in.paging, owners, id)
	if err != nil {
		return nil, err
	}
	answer := &describeNetworkInterfacesAnswer{NextToken: next}
	world := a.cloud.World()
	for _, i := range owners {
		answer.Interfaces.Items = append(answer.Interfaces.Items, networkInterface{
			interfaceFacts: a.interfaceFacts(i, world), Zone: i.Zone, Tags: tagSet(i.Interface.Tags),
			Attachment: attachmentOfOthers{
				attachment: attachmentOf(&i.Interface), InstanceID: i.ID, OwnerID: a.cloud.AccountID(),
			},
		})
	}
	return answer, nil
}

// owners returns the instances that still have their volume and interface, ordered by key.
func (a *API) owners(key func(*cloud.Instance) string) []*cloud.Instance {
	var out []*cloud.Instance
	for _, i := range a.cloud.Instances() {
		if i.HasMachine() {
			out = append(out, i)
		}
	}
	slices.SortFunc(out, func(x, y *cloud.Instance) int { return cmp.Compare(key(x), key(y)) })
	return out
}

// interfaceFields are what interfaces can be filtered by.
func (a *API) interfaceFields() fields[*cloud.Instance] {
	type in = *cloud.Instance
	world := a.cloud.World()
	return fields[in]{
		"addresses.private-ip-address": func(i in) []string { return texts(i.Interface.Addresses()) },
		"attachment.attachment-id":     one(func(i in) string { return i.Interface.AttachmentID }),
		"attachment.device-index":      constant[in]("0"),
		"attachment.instance-id":       one(func(i in) string { return i.ID }),
		"attachment.status":            constant[in]("attached"),
		"availability-zone":            one(func(i in) string { return i.Zone }),
		"description":                  one(func(i in) string { return i.Interface.Description }),
		"group-id":                     func(i in) []string { return i.Interface.Groups },
		"group-name":                   func(i in) []string { return groupNames(i.Interface.Groups, world) },
		"mac-address":                  one(func(i in) string { return i.Interface.MAC }),
		"network-interface-id":         one(func(i in) string { return i.Interface.ID }),
		"owner-id":                     constant[in](a.cloud.AccountID()),
		"private-dns-name":             one(func(i in) string { return a.cloud.PrivateDNSName(i.Interface.Primary) }),
		"private-ip-address":           func(i in) []string { return texts(i.Interface.Addresses()) },
		"source-dest-check":            one(func(i in) string { return yesNo(i.Interface.SourceDestCheck) }),
		"status":                       constant[in]("in-use"),
		"subnet-id":                    one(func(i in) string { return i.Interface.SubnetID }),
		"vpc-id":                       constant[in](world.VPC.ID),
	}
}
