package ec2api

import (
	"fmt"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type modifyVolumeRequest struct {
	dryRun
	VolumeID   string `query:"VolumeId,required"`
	Size       *int
	VolumeType string
	IOPS       int `query:"Iops"`
	Throughput int
}

type modifyVolumeAnswer struct {
	query.Answer
	Modification volumeModification `xml:"volumeModification"`
}

type volumeModification struct {
	VolumeID           string      `xml:"volumeId"`
	State              string      `xml:"modificationState"`
	TargetSize         int         `xml:"targetSize"`
	TargetIOPS         int         `xml:"targetIops,omitempty"`
	TargetType         string      `xml:"targetVolumeType"`
	TargetThroughput   int         `xml:"targetThroughput,omitempty"`
	OriginalSize       int         `xml:"originalSize"`
	OriginalIOPS       int         `xml:"originalIops,omitempty"`
	OriginalType       string      `xml:"originalVolumeType"`
	OriginalThroughput int         `xml:"originalThroughput,omitempty"`
	Progress           int         `xml:"progress"`
	Start              query.Time  `xml:"startTime"`
	End                *query.Time `xml:"endTime"`
}

func (a *API) modifyVolume(in *modifyVolumeRequest) (*modifyVolumeAnswer, error) {
	if n := in.Size; n != nil && (*n < 1 || *n > maxVolumeGiB) {
		return nil, query.Errorf("InvalidParameterValue", "Volume size %d is invalid: it must be between 1 and %d GiB", *n, maxVolumeGiB)
	}
	if _, ok := volumeTypes[in.VolumeType]; !ok && in.VolumeType != "" {
		return nil, query.Errorf("InvalidParameterValue", "Invalid volume type: %s", in.VolumeType)
	}
	i, err := a.cloud.ModifyVolume(in.VolumeID, in.DryRun, func(v *cloud.Volume) error {
		v.SizeGiB = deref(in.Size, v.SizeGiB)
		if in.VolumeType != "" && in.VolumeType != v.Type {
			v.Type, v.IOPS, v.Throughput = in.VolumeType, volumeTypes[in.VolumeType].iops, volumeTypes[in.VolumeType].throughput
		}
		if in.IOPS != 0 {
			v.IOPS = in.IOPS
		}
		if in.Throughput != 0 {
			if v.Type != "gp3" {
				return query.Errorf("InvalidParameterCombination", "The throughput parameter is not supported for %s volumes.", v.Type)
			}
			v.Throughput = in.Throughput
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &modifyVolumeAnswer{Modification: a.modification(i)}, nil
}

// modification writes the last modification of an instance's volume.
func (a *API) modification(i *cloud.Instance) volumeModification {
	m := i.Volume.Modification
	out := volumeModification{
		VolumeID: i.Volume.ID, State: "modifying", Start: query.Time(m.Start),
		TargetSize: i.Volume.SizeGiB, TargetIOPS: i.Volume.IOPS, TargetType: i.Volume.Type, TargetThroughput: i.Volume.Throughput,
		OriginalSize: m.SizeGiB, OriginalIOPS: m.IOPS, OriginalType: m.Type, OriginalThroughput: m.Throughput,
	}
	if end, done := a.cloud.ModificationEnd(m); done {
		at := query.Time(end)
		out.State, out.Progress, out.End = "completed", 100, &at
	}
	return out
}

type describeModificationsRequest struct {
	dryRun
	paging
	VolumeIDs []string `query:"VolumeId"`
	Filters   []filter `query:"Filter"`
}

type describeModificationsAnswer struct {
	query.Answer
	Modifications query.Set[volumeModification] `xml:"volumeModificationSet"`
	NextToken     string                        `xml:"nextToken,omitempty"`
}

func (a *API) describeVolumesModifications(in *describeModificationsRequest) (*describeModificationsAnswer, error) {
	if err := in.notBoth(in.VolumeIDs, "volumeSet"); err != nil {
		return nil, err
	}
	volumeID := func(i *cloud.Instance) string { return i.Volume.ID }
	owners, err := selectByID(a.owners(volumeID), in.VolumeIDs, "vol", volumeID)
	if err != nil {
		return nil, err
	}
	var all []volumeModification
	for _, i := range owners {
		switch {
		case i.Volume.Modification != nil:
			all = append(all, a.modification(i))
		case len(in.VolumeIDs) > 0:
			return nil, query.Errorf("InvalidVolumeModification.NotFound", "Modification for volume '%s' does not exist.", i.Volume.ID)
		}
	}
	id := func(m volumeModification) string { return m.VolumeID }
	number := func(f func(volumeModification) int) func(volumeModification) []string {
		return one(func(m volumeModification) string { return fmt.Sprint(f(m)) })
	}
	all, err = selectBy(all, in.Filters, fields[volumeModification]{
		"modification-state":   one(func(m volumeModification) string { return m.State }),
		"original-iops":        number(func(m volumeModification) int { return m.OriginalIOPS }),
		"original-size":        number(func(m volumeModification) int { return m.OriginalSize }),
		"original-volume-type": one(func(m volumeModification) string { return m.OriginalType }),
		"start-time":           one(func(m volumeModification) string { return formatTime(time.Time(m.Start)) }),
		"target-iops":          number(func(m volumeModification) int { return m.TargetIOPS }),
		"target-size":          number(func(m volumeModification) int { return m.TargetSize }),
		"target-volume-type":   one(func(m volumeModification) string { return m.TargetType }),
		"volume-id":            one(id),
	}, nil)
	if err != nil {
		return nil, err
	}
	all, next, err := page(in.paging, all, id)
	if err != nil {
		return nil, err
	}
	return &describeModificationsAnswer{Modifications: query.SetOf(all...), NextToken: next}, nil
}
