package ec2api

import (
	"fmt"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeVolumesRequest struct {
	dryRun
	paging
	IDs     []string `query:"VolumeId"`
	Filters []filter `query:"Filter"`
}

type describeVolumesAnswer struct {
	query.Answer
	Volumes   query.Set[volume] `xml:"volumeSet"`
	NextToken string            `xml:"nextToken,omitempty"`
}

type volume struct {
	ID          string                      `xml:"volumeId"`
	SizeGiB     int                         `xml:"size"`
	SnapshotID  string                      `xml:"snapshotId"`
	Zone        string                      `xml:"availabilityZone"`
	Status      string                      `xml:"status"`
	Created     query.Time                  `xml:"createTime"`
	Attachments query.Set[volumeAttachment] `xml:"attachmentSet"`
	Tags        query.Set[tag]              `xml:"tagSet"`
	Type        string                      `xml:"volumeType"`
	IOPS        int                         `xml:"iops,omitempty"`
	Throughput  int                         `xml:"throughput,omitempty"`
	Encrypted   bool                        `xml:"encrypted"`
	KMSKeyID    string                      `xml:"kmsKeyId,omitempty"`
	MultiAttach bool                        `xml:"multiAttachEnabled"`
}

type volumeAttachment struct {
	VolumeID            string     `xml:"volumeId"`
	InstanceID          string     `xml:"instanceId"`
	Device              string     `xml:"device"`
	Status              string     `xml:"status"`
	Time                query.Time `xml:"attachTime"`
	DeleteOnTermination bool       `xml:"deleteOnTermination"`
}

func (a *API) describeVolumes(in *describeVolumesRequest) (*describeVolumesAnswer, error) {
	if err := in.notBoth(in.IDs, "volumeSet"); err != nil {
		return nil, err
	}
	id := func(i *cloud.Instance) string { return i.Volume.ID }
	owners, err := selectByID(a.owners(id), in.IDs, "vol", id)
	if err != nil {
		return nil, err
	}
	owners, err = selectBy(owners, in.Filters, volumeFields, func(i *cloud.Instance) cloud.Tags { return i.Volume.Tags })
	if err != nil {
		return nil, err
	}
	owners, next, err := page(in.paging, owners, id)
	if err != nil {
		return nil, err
	}
	answer := &describeVolumesAnswer{NextToken: next}
	for _, i := range owners {
		v := &i.Volume
		answer.Volumes.Items = append(answer.Volumes.Items, volume{
			ID: v.ID, SizeGiB: v.SizeGiB, SnapshotID: v.SnapshotID, Zone: i.Zone, Status: "in-use",
			Created: query.Time(v.Created), Tags: tagSet(v.Tags), Type: v.Type, IOPS: v.IOPS,
			Throughput: v.Throughput, Encrypted: v.Encrypted, KMSKeyID: v.KMSKeyID,
			Attachments: query.SetOf(volumeAttachment{
				VolumeID: v.ID, InstanceID: i.ID, Device: v.Device, Status: "attached",
				Time: query.Time(v.Created), DeleteOnTermination: true,
			}),
		})
	}
	return answer, nil
}

// volumeFields are what volumes can be filtered by.
var volumeFields = fields[*cloud.Instance]{
	"attachment.delete-on-termination": constant[*cloud.Instance]("true"),
	"attachment.device":                one(func(i *cloud.Instance) string { return i.Volume.Device }),
	"attachment.instance-id":           one(func(i *cloud.Instance) string { return i.ID }),
	"attachment.status":                constant[*cloud.Instance]("attached"),
	"availability-zone":                one(func(i *cloud.Instance) string { return i.Zone }),
	"encrypted":                        one(func(i *cloud.Instance) string { return yesNo(i.Volume.Encrypted) }),
	"size":                             one(func(i *cloud.Instance) string { return fmt.Sprint(i.Volume.SizeGiB) }),
	"status":                           constant[*cloud.Instance]("in-use"),
	"volume-id":                        one(func(i *cloud.Instance) string { return i.Volume.ID }),
	"volume-type":                      one(func(i *cloud.Instance) string { return i.Volume.Type }),
}
