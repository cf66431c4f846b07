package ec2api

import (
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// reservation is a reservation in an answer.
type reservation struct {
	ID        string              `xml:"reservationId"`
	OwnerID   string              `xml:"ownerId"`
	Groups    query.Set[group]    `xml:"groupSet"` // of EC2-Classic: always empty
	Instances query.Set[instance] `xml:"instancesSet"`
}

// instance is an instance in an answer. What an instance no longer has when it is terminated is omitted then.
type instance struct {
	ID                 string                       `xml:"instanceId"`
	ImageID            string                       `xml:"imageId"`
	State              instanceState                `xml:"instanceState"`
	PrivateDNSName     string                       `xml:"privateDnsName"`
	DNSName            string                       `xml:"dnsName"`
	Transition         string                       `xml:"reason"`
	KeyName            string                       `xml:"keyName,omitempty"`
	LaunchIndex        int                          `xml:"amiLaunchIndex"`
	ProductCodes       query.Set[struct{}]          `xml:"productCodes"`
	Type               string                       `xml:"instanceType"`
	LaunchTime         query.Time                   `xml:"launchTime"`
	Placement          placement                    `xml:"placement"`
	Monitoring         monitoring                   `xml:"monitoring"`
	SubnetID           string                       `xml:"subnetId,omitempty"`
	VPCID              string                       `xml:"vpcId,omitempty"`
	PrivateIP          string                       `xml:"privateIpAddress,omitempty"`
	PublicIP           string                       `xml:"ipAddress,omitempty"`
	SourceDestCheck    *bool                        `xml:"sourceDestCheck"`
	Groups             query.Set[group]             `xml:"groupSet"`
	StateReason        *reason                      `xml:"stateReason"`
	Architecture       string                       `xml:"architecture"`
	RootDeviceType     string                       `xml:"rootDeviceType"`
	RootDeviceName     string                       `xml:"rootDeviceName"`
	BlockDevices       query.Set[blockDevice]       `xml:"blockDeviceMapping"`
	VirtualizationType string                       `xml:"virtualizationType"`
	ClientToken        string                       `xml:"clientToken"`
	Lifecycle          string                       `xml:"instanceLifecycle,omitempty"`
	SpotRequestID      string                       `xml:"spotInstanceRequestId,omitempty"`
	Tags               query.Set[tag]               `xml:"tagSet"`
	Hypervisor         string                       `xml:"hypervisor"`
	Interfaces         query.Set[instanceInterface] `xml:"networkInterfaceSet"`
	Profile            *profile                     `xml:"iamInstanceProfile"`
	EBSOptimized       bool                         `xml:"ebsOptimized"`
	ENASupport         bool                         `xml:"enaSupport"`
	CPUOptions         cpuOptions                   `xml:"cpuOptions"`
	MetadataOptions    metadataOptions              `xml:"metadataOptions"`
	PlatformDetails    string                       `xml:"platformDetails"`
	UsageOperation     string                       `xml:"usageOperation"`
	UsageOperationTime query.Time                   `xml:"usageOperationUpdateTime"`
}

type instanceState struct {
	Code int    `xml:"code"`
	Name string `xml:"name"`
}

// stateCodes are the numbers of the states.
var stateCodes = map[cloud.State]int{
	cloud.Pending: 0, cloud.Running: 16, cloud.ShuttingDown: 32,
	cloud.Terminated: 48, cloud.Stopping: 64, cloud.Stopped: 80,
}

func stateOf(s cloud.State) instanceState { return instanceState{Code: stateCodes[s], Name: string(s)} }

type placement struct {
	Zone    string `xml:"availabilityZone"`
	Group   string `xml:"groupName"`
	Tenancy string `xml:"tenancy"`
}

type monitoring struct {
	State string `xml:"state"`
}

func monitoringOf(detailed bool) monitoring {
	if detailed {
		return monitoring{State: "enabled"}
	}
	return monitoring{State: "disabled"}
}

type blockDevice struct {
	Name string   `xml:"deviceName"`
	EBS  attached `xml:"ebs"`
}

type attached struct {
	VolumeID            string     `xml:"volumeId"`
	Status              string     `xml:"status"`
	Time                query.Time `xml:"attachTime"`
	DeleteOnTermination bool       `xml:"deleteOnTermination"`
}

type profile struct {
	ARN string `xml:"arn"`
	ID  string `xml:"id"`
}

type cpuOptions struct {
	Cores   int32 `xml:"coreCount"`
	Threads int32 `xml:"threadsPerCore"`
}

// cpuOptionsOf guesses the cores: two threads each on x86, one on arm64.
func cpuOptionsOf(i *cloud.Instance) cpuOptions {
	if i.Architecture == "x86_64" && i.VCPUs > 1 {
		return cpuOptions{Cores: i.VCPUs / 2, Threads: 2}
	}
	return cpuOptions{Cores: i.VCPUs, Threads: 1}
}

type metadataOptions struct {
	State    string `xml:"state"`
	Tokens   string `xml:"httpTokens"`
	HopLimit int    `xml:"httpPutResponseHopLimit"`
	Endpoint string `xml:"httpEndpoint"`
	IPv6     string `xml:"httpProtocolIpv6"`
	Tags     string `xml:"instanceMetadataTags"`
}

func enabled(b bool) string {
	if b {
		return "enabled"
	}
	return "disabled"
}

func httpTokens(m cloud.MetadataOptions) string {
	if m.TokensRequired {
		return "required"
	}
	return "optional"
}

// instance writes an instance as EC2 shows it.
func (a *API) instance(i *cloud.Instance, w cloud.World) instance {
	out := instance{
		ID: i.ID, ImageID: i.ImageID, State: stateOf(i.State), Transition: i.Transition, KeyName: i.KeyName,
		LaunchIndex: i.Index, Type: i.Type, LaunchTime: query.Time(i.LaunchTime),
		Placement:    placement{Zone: i.Zone, Tenancy: "default"},
		Monitoring:   monitoringOf(i.DetailedMonitoring),
		Architecture: i.Architecture, RootDeviceType: "ebs", RootDeviceName: cloud.RootDevice,
		VirtualizationType: "hvm", ClientToken: i.ClientToken, Tags: tagSet(i.Tags),
		// EC2 says xen of its Nitro types too.
		Hypervisor:   "xen",
		EBSOptimized: i.EBSOptimized, ENASupport: i.Nitro, CPUOptions: cpuOptionsOf(i),
		MetadataOptions: metadataOptions{
			State: "applied", Tokens: httpTokens(i.Metadata), HopLimit: i.Metadata.ResponseHopLimit,
			Endpoint: enabled(i.Metadata.Enabled), IPv6: "disabled", Tags: enabled(i.Metadata.Tags),
		},
		PlatformDetails: "Linux/UNIX", UsageOperation: "RunInstances", UsageOperationTime: query.Time(i.LaunchTime),
	}
	if i.State == cloud.Pending {
		out.MetadataOptions.State = "pending"
	}
	if i.Reason.Code != "" {
		out.StateReason = &reason{Code: i.Reason.Code, Message: i.Reason.Message}
	}
	if i.Spot != nil {
		out.Lifecycle, out.SpotRequestID = "spot", i.Spot.RequestID
	}
	if i.ProfileARN != "" {
		out.Profile = &profile{ARN: i.ProfileARN, ID: iam.ProfileID(i.ProfileARN)}
	}
	if !i.HasMachine() {
		return out
	}
	nic := &i.Interface
	out.PrivateDNSName, out.PrivateIP = a.cloud.PrivateDNSName(nic.Primary), nic.Primary.String()
	if nic.Public.IsValid() {
		out.PublicIP = nic.Public.String()
	}
	out.SubnetID, out.VPCID = nic.SubnetID, w.VPC.ID
	out.SourceDestCheck = &nic.SourceDestCheck
	out.Groups = groupSet(nic.Groups, w)
	out.BlockDevices = query.SetOf(blockDevice{Name: i.Volume.Device, EBS: attached{
		VolumeID: i.Volume.ID, Status: "attached", Time: query.Time(i.Volume.Created), DeleteOnTermination: true,
	}})
	out.Interfaces = query.SetOf(a.instanceInterface(i, w))
	return out
}

func formatTime(t time.Time) string {
	text, _ := query.Time(t).MarshalText() // never fails
	return string(text)
}
