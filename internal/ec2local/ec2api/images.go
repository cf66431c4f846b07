package ec2api

import (
	"cmp"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeImagesRequest struct {
	dryRun
	paging
	IDs               []string `query:"ImageId"`
	Filters           []filter `query:"Filter"`
	Owners            []string `query:"Owner"`
	ExecutableBy      []string
	IncludeDeprecated bool
}

type describeImagesAnswer struct {
	query.Answer
	Images    query.Set[image] `xml:"imagesSet"`
	NextToken string           `xml:"nextToken,omitempty"`
}

type image struct {
	ID                 string                 `xml:"imageId"`
	Location           string                 `xml:"imageLocation"`
	State              string                 `xml:"imageState"`
	OwnerID            string                 `xml:"imageOwnerId"`
	CreationDate       string                 `xml:"creationDate"`
	IsPublic           bool                   `xml:"isPublic"`
	Architecture       string                 `xml:"architecture"`
	Type               string                 `xml:"imageType"`
	ENASupport         bool                   `xml:"enaSupport"`
	Name               string                 `xml:"name"`
	Description        string                 `xml:"description,omitempty"`
	RootDeviceType     string                 `xml:"rootDeviceType"`
	RootDeviceName     string                 `xml:"rootDeviceName"`
	BlockDevices       query.Set[imageDevice] `xml:"blockDeviceMapping"`
	VirtualizationType string                 `xml:"virtualizationType"`
	Tags               query.Set[tag]         `xml:"tagSet"`
	Hypervisor         string                 `xml:"hypervisor"`
	PlatformDetails    string                 `xml:"platformDetails"`
	UsageOperation     string                 `xml:"usageOperation"`
	BootMode           string                 `xml:"bootMode,omitempty"`
	IMDSSupport        string                 `xml:"imdsSupport,omitempty"`
}

type imageDevice struct {
	Name string `xml:"deviceName"`
	EBS  struct {
		DeleteOnTermination bool   `xml:"deleteOnTermination"`
		SnapshotID          string `xml:"snapshotId,omitempty"`
		VolumeSize          int    `xml:"volumeSize"`
		VolumeType          string `xml:"volumeType"`
		Encrypted           bool   `xml:"encrypted"`
	} `xml:"ebs"`
}

func (a *API) describeImages(in *describeImagesRequest) (*describeImagesAnswer, error) {
	if err := in.notBoth(in.IDs, "imagesSet"); err != nil {
		return nil, err
	}
	images, err := a.cloud.Images()
	if err != nil {
		return nil, err
	}
	id := func(i cloud.Image) string { return i.ID }
	if images, err = selectByID(images, in.IDs, "ami", id); err != nil {
		return nil, err
	}
	images = slices.DeleteFunc(images, func(i cloud.Image) bool {
		return !a.ownedBy(i, in.Owners) || !a.executableBy(i, in.ExecutableBy)
	})
	if images, err = selectBy(images, in.Filters, a.imageFields(), func(i cloud.Image) cloud.Tags { return i.Tags }); err != nil {
		return nil, err
	}
	slices.SortFunc(images, func(x, y cloud.Image) int { return cmp.Compare(x.ID, y.ID) })
	images, next, err := page(in.paging, images, id)
	if err != nil {
		return nil, err
	}
	answer := &describeImagesAnswer{NextToken: next}
	for _, i := range images {
		answer.Images.Items = append(answer.Images.Items, a.image(i))
	}
	return answer, nil
}

// amazonEKS is the account that owns Amazon's images for EKS nodes, one of several that are called amazon.
const amazonEKS = "602401143452"

// ownedBy tells whether an image belongs to one of the owners: account numbers, self, or amazon.
func (a *API) ownedBy(i cloud.Image, owners []string) bool {
	return len(owners) == 0 || slices.Contains(owners, i.OwnerID) ||
		i.OwnerID == a.cloud.AccountID() && slices.Contains(owners, "self") ||
		i.OwnerID == amazonEKS && slices.Contains(owners, "amazon")
}

// executableBy tells whether an image may be launched by one of the users: account numbers, self, or all. Images of
// the account itself are private, all others are public; otherwise the account could not see them.
func (a *API) executableBy(i cloud.Image, users []string) bool {
	switch {
	case len(users) == 0:
		return true
	case a.isPublic(i):
		return slices.Contains(users, "all")
	}
	return slices.Contains(users, "self") || slices.Contains(users, a.cloud.AccountID())
}

func (a *API) isPublic(i cloud.Image) bool { return i.OwnerID != a.cloud.AccountID() }

func (a *API) image(i cloud.Image) image {
	out := image{
		ID: i.ID, Location: i.OwnerID + "/" + i.Name, State: "available", OwnerID: i.OwnerID,
		CreationDate: formatTime(i.Created), IsPublic: a.isPublic(i), Architecture: i.Architecture, Type: "machine",
		ENASupport: !i.NoENA, Name: i.Name, Description: i.Description, RootDeviceType: "ebs",
		RootDeviceName: cloud.RootDevice, VirtualizationType: "hvm", Tags: tagSet(i.Tags), Hypervisor: "xen",
		PlatformDetails: "Linux/UNIX", UsageOperation: "RunInstances", BootMode: i.BootMode,
	}
	if i.TokensRequired {
		out.IMDSSupport = imdsV2
	}
	root := imageDevice{Name: cloud.RootDevice}
	root.EBS.DeleteOnTermination, root.EBS.VolumeSize, root.EBS.VolumeType = true, i.VolumeGiB, i.VolumeType
	root.EBS.SnapshotID, root.EBS.Encrypted = i.SnapshotID, i.Encrypted
	out.BlockDevices = query.SetOf(root)
	return out
}

// imageFields are what images can be filtered by.
func (a *API) imageFields() fields[cloud.Image] {
	type in = cloud.Image
	return fields[in]{
		"architecture":        one(func(i in) string { return i.Architecture }),
		"creation-date":       one(func(i in) string { return formatTime(i.Created) }),
		"description":         one(func(i in) string { return i.Description }),
		"ena-support":         one(func(i in) string { return yesNo(!i.NoENA) }),
		"hypervisor":          constant[in]("xen"),
		"image-id":            one(func(i in) string { return i.ID }),
		"image-type":          constant[in]("machine"),
		"is-public":           one(func(i in) string { return yesNo(a.isPublic(i)) }),
		"manifest-location":   one(func(i in) string { return i.OwnerID + "/" + i.Name }),
		"name":                one(func(i in) string { return i.Name }),
		"owner-alias":         constant[in](),
		"owner-id":            one(func(i in) string { return i.OwnerID }),
		"root-device-name":    constant[in](cloud.RootDevice),
		"root-device-type":    constant[in]("ebs"),
		"state":               constant[in]("available"),
		"virtualization-type": constant[in]("hvm"),
	}
}
