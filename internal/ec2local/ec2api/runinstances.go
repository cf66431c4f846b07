package ec2api

import (
	"crypto/sha256"
	"encoding/base64"
	"encoding/hex"
	"maps"
	"net/netip"
	"net/url"
	"slices"
	"strconv"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// EC2's limits.
const (
	maxUserData    = 16 << 10 // bytes, before base64
	maxClientToken = 64
	maxInstances   = 1000 // per launch

	defaultType = "m1.small" // since 2006
)

type runInstancesRequest struct {
	dryRun
	ImageID           string `query:"ImageId,required"`
	InstanceType      string
	MinCount          int `query:",required"`
	MaxCount          int `query:",required"`
	ClientToken       string
	SubnetID          string   `query:"SubnetId"`
	SecurityGroupIDs  []string `query:"SecurityGroupId"`
	PrivateIPAddress  string   `query:"PrivateIpAddress"`
	KeyName           string
	UserData          string
	EbsOptimized      bool
	ShutdownBehaviour string `query:"InstanceInitiatedShutdownBehavior"`
	NoAPITermination  bool   `query:"DisableApiTermination"`

	Monitoring *struct {
		Enabled bool `query:",required"`
	}
	Placement struct {
		AvailabilityZone string
		Tenancy          string
	}
	BlockDevices        []requestBlockDevice `query:"BlockDeviceMapping"`
	Interfaces          []requestInterface   `query:"NetworkInterface"`
	Profile             requestProfile       `query:"IamInstanceProfile"`
	CreditSpecification struct {
		CPUCredits string `query:"CpuCredits"`
	}
	MetadataOptions requestMetadataOptions
	MarketOptions   *requestMarketOptions `query:"InstanceMarketOptions"`
	Tags            []tagSpecification    `query:"TagSpecification"`
}

type runInstancesAnswer struct {
	query.Answer
	reservation
}

// runInstances is an operation of its own since the same client token must come with the same parameters, whatever
// they are.
func runInstances(a *API, c call) (query.Answerer, error) {
	var in runInstancesRequest
	if err := query.Decode(c.form, &in); err != nil {
		return nil, err
	}
	launch, err := in.launch()
	if err != nil {
		return nil, err
	}
	// Whether tokens are needed is the image's word if it is not the request's.
	if image, err := a.cloud.Image(launch.ImageID); err == nil && image.TokensRequired && in.MetadataOptions.HTTPTokens == "" {
		launch.Metadata.TokensRequired, launch.Metadata.ResponseHopLimit = true, deref(in.MetadataOptions.HopLimit, 2)
	}
	if err := a.admit(c, a.touchedBy(launch)); err != nil {
		return nil, err
	}
	if launch.ProfileARN, err = a.profileARN(in.Profile); err != nil {
		return nil, err
	}
	launch.RequestHash = requestHash(c.form)
	r, instances, err := a.cloud.Launch(launch)
	if err != nil {
		return nil, err
	}
	answer := &runInstancesAnswer{reservation: reservation{ID: r.ID, OwnerID: a.cloud.AccountID()}}
	world := a.cloud.World()
	for _, i := range instances {
		answer.Instances.Items = append(answer.Instances.Items, a.instance(i, world))
	}
	return answer, nil
}

// requestHash is equal for requests that ask for the same.
func requestHash(form url.Values) string {
	form = maps.Clone(form)
	form.Del("ClientToken")
	form.Del("DryRun")
	sum := sha256.Sum256([]byte(form.Encode()))
	return hex.EncodeToString(sum[:])
}

// launch turns the request into the wish for instances, as far as that can be told without the account.
func (in *runInstancesRequest) launch() (cloud.Launch, error) {
	l := cloud.Launch{
		Min: in.MinCount, Max: in.MaxCount, ClientToken: in.ClientToken, DryRun: in.DryRun,
		ImageID: in.ImageID, Type: in.InstanceType, SubnetID: in.SubnetID,
		Zone: in.Placement.AvailabilityZone, KeyName: in.KeyName,
		ShutdownBehaviour: in.ShutdownBehaviour, CPUCredits: in.CreditSpecification.CPUCredits,
		EBSOptimized: in.EbsOptimized, DetailedMonitoring: in.Monitoring != nil && in.Monitoring.Enabled,
		NoAPITermination: in.NoAPITermination, Groups: in.SecurityGroupIDs,
	}
	if l.Type == "" {
		l.Type = defaultType
	}
	for _, step := range []func(*cloud.Launch) error{
		in.checkScalars, in.userData, in.network, in.rootVolume, in.metadata, in.market, in.tags,
	} {
		if err := step(&l); err != nil {
			return l, err
		}
	}
	var err error
	l.ProfileARN, err = in.Profile.nameOrARN() // until it is looked up
	return l, err
}

func (in *runInstancesRequest) checkScalars(*cloud.Launch) error {
	switch {
	case in.MinCount < 1 || in.MaxCount < in.MinCount || in.MaxCount > maxInstances:
		return query.Errorf("InvalidParameterValue",
			"Invalid counts: minCount %d and maxCount %d must be ordered and between 1 and %d", in.MinCount, in.MaxCount, maxInstances)
	case len(in.ClientToken) > maxClientToken:
		return query.Errorf("InvalidParameterValue", "The client token is longer than %d characters", maxClientToken)
	case in.Placement.Tenancy != "" && in.Placement.Tenancy != "default":
		return query.Errorf("Unsupported", "Only the tenancy 'default' is supported")
	}
	if credits := in.CreditSpecification.CPUCredits; credits != "" {
		return checkCredits(credits)
	}
	return nil
}

func (in *runInstancesRequest) userData(l *cloud.Launch) error {
	data, err := base64.StdEncoding.DecodeString(in.UserData)
	if err != nil {
		return query.Errorf("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.")
	}
	if len(data) > maxUserData {
		return query.Errorf("InvalidParameterValue", "User data is limited to %d bytes", maxUserData)
	}
	l.UserData = data
	return nil
}

type requestMetadataOptions struct {
	HTTPTokens   string `query:"HttpTokens"`
	HopLimit     *int   `query:"HttpPutResponseHopLimit"`
	HTTPEndpoint string `query:"HttpEndpoint"`
	HTTPIPv6     string `query:"HttpProtocolIpv6"`
	Tags         string `query:"InstanceMetadataTags"`
}

func (in *runInstancesRequest) metadata(l *cloud.Launch) error {
	o := in.MetadataOptions
	for _, c := range []struct {
		name, value string
		allowed     []string
	}{
		{"HttpTokens", o.HTTPTokens, []string{"", "optional", "required"}},
		{"HttpEndpoint", o.HTTPEndpoint, []string{"", "enabled", "disabled"}},
		{"HttpProtocolIpv6", o.HTTPIPv6, []string{"", "disabled"}},
		{"InstanceMetadataTags", o.Tags, []string{"", "enabled", "disabled"}},
	} {
		if !slices.Contains(c.allowed, c.value) {
			return query.Errorf("InvalidParameterValue", "Value (%s) for parameter MetadataOptions.%s is invalid", c.value, c.name)
		}
	}
	l.Metadata = cloud.MetadataOptions{
		Enabled: o.HTTPEndpoint != "disabled", TokensRequired: o.HTTPTokens == "required",
		ResponseHopLimit: deref(o.HopLimit, 1), Tags: o.Tags == "enabled",
	}
	if n := l.Metadata.ResponseHopLimit; n < 1 || n > 64 {
		return query.Errorf("InvalidParameterValue",
			"Value (%d) for parameter HttpPutResponseHopLimit is invalid. It must be between 1 and 64", n)
	}
	return nil
}

type requestMarketOptions struct {
	MarketType string
	Spot       struct {
		MaxPrice              string
		Type                  string `query:"SpotInstanceType"`
		InterruptionBehaviour string `query:"InstanceInterruptionBehavior"`
	} `query:"SpotOptions"`
}

func (in *runInstancesRequest) market(l *cloud.Launch) error {
	o := in.MarketOptions
	switch {
	case o == nil:
		return nil
	case o.MarketType != "spot":
		return query.Errorf("InvalidParameterValue", "Value (%s) for parameter MarketType is invalid. It must be spot", o.MarketType)
	case o.Spot.Type != "" && o.Spot.Type != "one-time":
		return query.Errorf("Unsupported", "Only one-time spot requests are supported")
	case o.Spot.InterruptionBehaviour != "" && o.Spot.InterruptionBehaviour != "terminate":
		return query.Errorf("Unsupported", "Interrupted spot instances can only be terminated")
	}
	if o.Spot.MaxPrice != "" {
		if usd, err := strconv.ParseFloat(o.Spot.MaxPrice, 64); err != nil || usd <= 0 {
			return query.Errorf("InvalidParameterValue", "Invalid value '%s' for MaxPrice.", o.Spot.MaxPrice)
		}
	}
	l.Spot = &cloud.Spot{MaxPrice: o.Spot.MaxPrice, InterruptionBehaviour: "terminate"}
	return nil
}

func (in *runInstancesRequest) tags(l *cloud.Launch) error {
	tags, err := specifiedTags(in.Tags, "instance", "volume", "network-interface")
	if err != nil {
		return err
	}
	l.InstanceTags, l.VolumeTags, l.InterfaceTags = tags["instance"], tags["volume"], tags["network-interface"]
	return nil
}

// addr parses an IPv4 address of a request.
func addr(s string) (netip.Addr, error) {
	a, err := netip.ParseAddr(s)
	if err != nil || !a.Is4() {
		return netip.Addr{}, query.Errorf("InvalidParameterValue", "Invalid IPv4 address: %s", s)
	}
	return a, nil
}
