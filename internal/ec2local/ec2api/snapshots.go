package ec2api

import (
	"cmp"
	"errors"
	"slices"
	"strconv"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/snapshot"
)

type describeSnapshotsRequest struct {
	dryRun
	paging
	IDs          []string `query:"SnapshotId"`
	Filters      []filter `query:"Filter"`
	Owners       []string `query:"Owner"`
	RestorableBy []string
}

type describeSnapshotsAnswer struct {
	query.Answer
	Snapshots query.Set[snapshotItem] `xml:"snapshotSet"`
	NextToken string                  `xml:"nextToken,omitempty"`
}

type snapshotItem struct {
	ID          string         `xml:"snapshotId"`
	VolumeID    string         `xml:"volumeId"`
	State       string         `xml:"status"`
	StartTime   query.Time     `xml:"startTime"`
	Progress    string         `xml:"progress"`
	OwnerID     string         `xml:"ownerId"`
	SizeGiB     int64          `xml:"volumeSize"`
	Description string         `xml:"description"`
	Encrypted   bool           `xml:"encrypted"`
	KMSKeyID    string         `xml:"kmsKeyId,omitempty"`
	Tags        query.Set[tag] `xml:"tagSet"`
	Tier        string         `xml:"storageTier"`
}

// noVolume is the volume of snapshots that were not made of one.
const noVolume = "vol-ffffffff"

func (a *API) describeSnapshots(in *describeSnapshotsRequest) (*describeSnapshotsAnswer, error) {
	if err := in.notBoth(in.IDs, "snapshotsSet"); err != nil {
		return nil, err
	}
	id := func(s snapshot.Snapshot) string { return s.ID }
	all, err := selectByID(a.snapshots.All(), in.IDs, "snap", id)
	if err != nil {
		return nil, err
	}
	// There are the account's own only.
	for _, names := range [][]string{in.Owners, in.RestorableBy} {
		if len(names) > 0 && !slices.Contains(names, "self") && !slices.Contains(names, a.cloud.AccountID()) {
			all = nil
		}
	}
	if all, err = selectBy(all, in.Filters, a.snapshotFields(), func(s snapshot.Snapshot) cloud.Tags { return s.Tags }); err != nil {
		return nil, err
	}
	slices.SortFunc(all, func(x, y snapshot.Snapshot) int { return cmp.Compare(x.ID, y.ID) })
	all, next, err := page(in.paging, all, id)
	if err != nil {
		return nil, err
	}
	answer := &describeSnapshotsAnswer{NextToken: next}
	for _, s := range all {
		answer.Snapshots.Items = append(answer.Snapshots.Items, snapshotItem{
			ID: s.ID, VolumeID: noVolume, State: string(s.State(a.cloud.Now())), StartTime: query.Time(s.Started), Progress: a.progress(s),
			OwnerID: a.cloud.AccountID(), SizeGiB: s.SizeGiB, Description: s.Description, Encrypted: s.KMSKeyARN != "",
			KMSKeyID: s.KMSKeyARN, Tags: tagSet(s.Tags), Tier: "standard",
		})
	}
	return answer, nil
}

func (a *API) progress(s snapshot.Snapshot) string {
	if s.State(a.cloud.Now()) == snapshot.Completed {
		return "100%"
	}
	return "0%"
}

// snapshotFields are what snapshots can be filtered by.
func (a *API) snapshotFields() fields[snapshot.Snapshot] {
	type in = snapshot.Snapshot
	return fields[in]{
		"description":  one(func(s in) string { return s.Description }),
		"encrypted":    one(func(s in) string { return yesNo(s.KMSKeyARN != "") }),
		"owner-id":     constant[in](a.cloud.AccountID()),
		"progress":     one(a.progress),
		"snapshot-id":  one(func(s in) string { return s.ID }),
		"start-time":   one(func(s in) string { return formatTime(s.Started) }),
		"status":       one(func(s in) string { return string(s.State(a.cloud.Now())) }),
		"storage-tier": constant[in]("standard"),
		"volume-id":    constant[in](noVolume),
		"volume-size":  one(func(s in) string { return strconv.FormatInt(s.SizeGiB, 10) }),
	}
}

type deleteSnapshotRequest struct {
	dryRun
	ID string `query:"SnapshotId,required"`
}

func (in *deleteSnapshotRequest) touches(a *API) []touched { return a.existing(in.ID) }

func (a *API) deleteSnapshot(in *deleteSnapshotRequest) (*done, error) {
	if _, err := a.snapshot(in.ID); err != nil {
		return nil, err
	}
	images, err := a.cloud.Images()
	if err != nil {
		return nil, err
	}
	for _, i := range images {
		if i.SnapshotID == in.ID {
			return nil, query.Errorf("InvalidSnapshot.InUse", "The snapshot %s is currently in use by %s", in.ID, i.ID)
		}
	}
	if in.DryRun {
		return nil, cloud.ErrDryRun()
	}
	return ok(a.snapshots.Delete(in.ID))
}

// snapshot finds a snapshot that a request names.
func (a *API) snapshot(id string) (snapshot.Snapshot, error) {
	s, err := a.snapshots.Get(id)
	if errors.Is(err, snapshot.ErrNotFound) {
		err = cloud.NotFound("snap", id)
	}
	return s, err
}
