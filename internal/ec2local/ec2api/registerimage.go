package ec2api

import (
	"regexp"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/snapshot"
)

type registerImageRequest struct {
	dryRun
	Name               string `query:",required"`
	Description        string
	Architecture       string
	RootDeviceName     string
	VirtualizationType string
	BootMode           string
	IMDSSupport        string               `query:"ImdsSupport"`
	ENASupport         bool                 `query:"EnaSupport"`
	BlockDevices       []requestBlockDevice `query:"BlockDeviceMapping"`
	Tags               []tagSpecification   `query:"TagSpecification"`
}

type registerImageAnswer struct {
	query.Answer
	ID string `xml:"imageId"`
}

// What an image may be called and described by.
var (
	imageName        = regexp.MustCompile(`^[a-zA-Z0-9()\[\] ./'@_-]{3,128}$`)
	imageDescription = regexp.MustCompile(`^.{0,255}$`)
)

func (in *registerImageRequest) touches(a *API) []touched {
	all := []touched{{arn: "arn:aws:ec2:" + a.cloud.Region() + "::image/*", made: true, gets: tagsOf(in.Tags, "image")}}
	for _, d := range in.BlockDevices {
		all = append(all, a.existing(d.EBS.SnapshotID)...)
	}
	return all
}

func (a *API) registerImage(in *registerImageRequest) (*registerImageAnswer, error) {
	image, err := in.image()
	if err != nil {
		return nil, err
	}
	tags, err := specifiedTags(in.Tags, "image")
	if err != nil {
		return nil, err
	}
	image.Tags = tags["image"]
	of, err := a.snapshot(image.SnapshotID)
	switch size := in.BlockDevices[0].EBS.VolumeSize; {
	case err != nil:
		return nil, err
	case of.State(a.cloud.Now()) != snapshot.Completed:
		return nil, query.Errorf("IncorrectState", "Snapshot '%s' is not 'completed'.", of.ID)
	case size != nil && int64(*size) < of.SizeGiB:
		return nil, query.Errorf("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot '%s', expect size >= %dGB",
			*size, of.ID, of.SizeGiB)
	}
	image.VolumeGiB, image.Encrypted = deref(in.BlockDevices[0].EBS.VolumeSize, int(of.SizeGiB)), of.KMSKeyARN != ""
	image, err = a.cloud.RegisterImage(image, a.snapshots.Disk(of.ID), in.DryRun)
	if err != nil {
		return nil, err
	}
	return &registerImageAnswer{ID: image.ID}, nil
}

// image turns the request into the wish for an image. What EC2 would take and these machines could not boot is refused.
func (in *registerImageRequest) image() (cloud.Image, error) {
	fail := func(err error) (cloud.Image, error) { return cloud.Image{}, err }
	switch {
	case !imageName.MatchString(in.Name):
		return fail(query.Errorf("InvalidAMIName.Malformed", "AMI names must be between 3 and 128 characters long, and may contain "+
			"letters, numbers, '(', ')', '.', '-', '/' and '_'"))
	case !imageDescription.MatchString(in.Description):
		return fail(query.Errorf("InvalidParameterValue", "The description is longer than 255 characters"))
	case in.RootDeviceName == "":
		return fail(query.Errorf("MissingParameter", "The request must contain the parameter RootDeviceName"))
	case in.RootDeviceName != cloud.RootDevice:
		return fail(query.Errorf("Unsupported", "Only the root device %s is supported, not %s", cloud.RootDevice, in.RootDeviceName))
	case len(in.BlockDevices) != 1 || in.BlockDevices[0].DeviceName != in.RootDeviceName:
		return fail(query.Errorf("Unsupported", "Only images with one volume, the root device, are supported"))
	case in.VirtualizationType != "hvm":
		return fail(query.Errorf("Unsupported", "Only the virtualization type hvm is supported"))
	case in.BootMode != "uefi":
		return fail(query.Errorf("Unsupported", "Only the boot mode uefi is supported"))
	case in.Architecture != "x86_64":
		return fail(query.Errorf("Unsupported", "Only the architecture x86_64 is supported"))
	case !slices.Contains([]string{"", imdsV2}, in.IMDSSupport):
		return fail(query.Errorf("InvalidParameterValue", "Value (%s) for parameter ImdsSupport is invalid", in.IMDSSupport))
	}
	ebs := in.BlockDevices[0].EBS
	switch {
	case ebs.SnapshotID == "":
		return fail(query.Errorf("MissingParameter", "The root device must have a snapshot"))
	case ebs.Encrypted || ebs.KMSKeyID != "":
		return fail(query.Errorf("InvalidBlockDeviceMapping", "The encryption of a snapshot cannot be said again"))
	case ebs.DeleteOnTermination != nil && !*ebs.DeleteOnTermination:
		return fail(query.Errorf("Unsupported", "Volumes do not outlive their instance"))
	}
	volume := ebs.VolumeType
	if volume == "" {
		volume = cloud.VolumeType
	}
	if _, ok := volumeTypes[volume]; !ok {
		return fail(query.Errorf("InvalidParameterValue", "Invalid volume type: %s", volume))
	}
	return cloud.Image{
		Name: in.Name, Description: in.Description, Architecture: in.Architecture, BootMode: in.BootMode, NoENA: !in.ENASupport,
		TokensRequired: in.IMDSSupport == imdsV2, SnapshotID: ebs.SnapshotID, VolumeType: volume,
	}, nil
}

// imdsV2 is the word for images whose instances' metadata needs tokens.
const imdsV2 = "v2.0"

type deregisterImageRequest struct {
	dryRun
	ID string `query:"ImageId,required"`
}

func (in *deregisterImageRequest) touches(a *API) []touched { return []touched{a.imageTouched(in.ID)} }

func (a *API) deregisterImage(in *deregisterImageRequest) (*done, error) {
	return ok(a.cloud.DeregisterImage(in.ID, in.DryRun))
}
