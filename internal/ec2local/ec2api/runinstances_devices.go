package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type requestInterface struct {
	DeviceIndex              *int
	NetworkCardIndex         *int
	SubnetID                 string `query:"SubnetId"`
	Description              string
	Groups                   []string `query:"SecurityGroupId"`
	AssociatePublicIPAddress bool     `query:"AssociatePublicIpAddress"`
	DeleteOnTermination      *bool
	InterfaceType            string
	PrivateIPAddress         string                  `query:"PrivateIpAddress"`
	PrivateIPAddresses       []requestPrivateAddress `query:"PrivateIpAddresses"`
	SecondaryCount           *int                    `query:"SecondaryPrivateIpAddressCount"`
}

type requestPrivateAddress struct {
	Primary bool
	Address string `query:"PrivateIpAddress,required"`
}

// network reads the one interface of a request, or what stands for it when there is none.
func (in *runInstancesRequest) network(l *cloud.Launch) error {
	if len(in.Interfaces) == 0 {
		if in.PrivateIPAddress == "" {
			return nil
		}
		var err error
		l.PrimaryIP, err = addr(in.PrivateIPAddress)
		return err
	}
	if in.SubnetID != "" || len(in.SecurityGroupIDs) > 0 || in.PrivateIPAddress != "" {
		return query.Errorf("InvalidParameterCombination",
			"Network interfaces and an instance-level subnet ID, security groups or private address may not be specified on the same request")
	}
	n := in.Interfaces[0]
	switch {
	case len(in.Interfaces) > 1:
		return query.Errorf("Unsupported", "Only one network interface per instance is supported")
	case n.DeviceIndex == nil || *n.DeviceIndex != 0 || deref(n.NetworkCardIndex, 0) != 0:
		return query.Errorf("InvalidParameterValue", "The network interface must have device index 0 on network card 0")
	case n.DeleteOnTermination != nil && !*n.DeleteOnTermination:
		return query.Errorf("Unsupported", "Network interfaces do not outlive their instance")
	case n.InterfaceType != "" && n.InterfaceType != "interface":
		return query.Errorf("Unsupported", "Only network interfaces of type 'interface' are supported")
	case n.AssociatePublicIPAddress && in.MaxCount > 1 && n.PrivateIPAddress != "":
		return query.Errorf("InvalidParameterCombination", "A private address cannot be given to more than one instance")
	}
	l.SubnetID, l.Groups, l.Description = n.SubnetID, n.Groups, n.Description
	l.PublicIP = n.AssociatePublicIPAddress
	return n.addresses(l)
}

// addresses reads which addresses the interface shall have. They are either counted or named.
func (n *requestInterface) addresses(l *cloud.Launch) error {
	l.SecondaryCount = deref(n.SecondaryCount, 0)
	if l.SecondaryCount < 0 {
		return query.Errorf("InvalidParameterValue", "SecondaryPrivateIpAddressCount must not be negative")
	}
	if n.PrivateIPAddress != "" {
		primary, err := addr(n.PrivateIPAddress)
		if err != nil {
			return err
		}
		l.PrimaryIP = primary
	}
	for _, p := range n.PrivateIPAddresses {
		a, err := addr(p.Address)
		switch {
		case err != nil:
			return err
		case p.Primary && l.PrimaryIP.IsValid():
			return query.Errorf("InvalidParameterCombination", "Only one primary private IP address can be specified")
		case p.Primary:
			l.PrimaryIP = a
		default:
			l.SecondaryIPs = append(l.SecondaryIPs, a)
		}
	}
	if len(l.SecondaryIPs) > 0 && l.SecondaryCount > 0 {
		return query.Errorf("InvalidParameterCombination",
			"Secondary private addresses cannot be both named and counted")
	}
	return nil
}

type requestBlockDevice struct {
	DeviceName string
	EBS        struct {
		DeleteOnTermination *bool
		Encrypted           bool
		Iops                int
		KMSKeyID            string `query:"KmsKeyId"`
		SnapshotID          string `query:"SnapshotId"`
		Throughput          int
		VolumeSize          *int
		VolumeType          string
	} `query:"Ebs"`
}

// volumeTypes are the volume types, with what they do unless asked otherwise.
var volumeTypes = map[string]struct{ iops, throughput int }{
	"standard": {}, "gp2": {iops: 100}, "gp3": {iops: 3000, throughput: 125},
	"io1": {iops: 100}, "io2": {iops: 100}, "sc1": {}, "st1": {},
}

const maxVolumeGiB = 16384

// rootVolume reads the one volume of a request.
func (in *runInstancesRequest) rootVolume(l *cloud.Launch) error {
	l.Volume = cloud.Volume{Type: "gp2"}
	switch {
	case len(in.BlockDevices) > 1:
		return query.Errorf("Unsupported", "Only the root volume is supported")
	case len(in.BlockDevices) == 1:
		d := in.BlockDevices[0]
		if d.DeviceName != cloud.RootDevice {
			return query.Errorf("Unsupported", "Only the root volume %s is supported, not %s", cloud.RootDevice, d.DeviceName)
		}
		if !deref(d.EBS.DeleteOnTermination, true) {
			return query.Errorf("Unsupported", "Volumes do not outlive their instance")
		}
		if d.EBS.KMSKeyID != "" && !d.EBS.Encrypted {
			return query.Errorf("InvalidParameterDependency", "The parameter KmsKeyId requires the parameter Encrypted to be set.")
		}
		l.Volume.SizeGiB = deref(d.EBS.VolumeSize, 0)
		if n := d.EBS.VolumeSize; n != nil && (*n < 1 || *n > maxVolumeGiB) {
			return query.Errorf("InvalidParameterValue", "Volume size %d is invalid: it must be between 1 and %d GiB", *n, maxVolumeGiB)
		}
		if d.EBS.VolumeType != "" {
			l.Volume.Type = d.EBS.VolumeType
		}
		l.Volume.Encrypted, l.Volume.KMSKeyID, l.Volume.SnapshotID = d.EBS.Encrypted, d.EBS.KMSKeyID, d.EBS.SnapshotID
		l.Volume.IOPS, l.Volume.Throughput = d.EBS.Iops, d.EBS.Throughput
	}
	t, ok := volumeTypes[l.Volume.Type]
	if !ok {
		return query.Errorf("InvalidParameterValue", "Invalid volume type: %s", l.Volume.Type)
	}
	if l.Volume.Throughput != 0 && l.Volume.Type != "gp3" {
		return query.Errorf("InvalidParameterCombination", "The throughput parameter is not supported for %s volumes.", l.Volume.Type)
	}
	if l.Volume.IOPS == 0 {
		l.Volume.IOPS = t.iops
	}
	if l.Volume.Throughput == 0 {
		l.Volume.Throughput = t.throughput
	}
	return nil
}
