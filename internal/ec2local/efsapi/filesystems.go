package efsapi

import (
	"cmp"
	"maps"
	"net/http"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

type tag struct{ Key, Value string }

type size struct {
	Value           int64
	ValueInIA       int64
	ValueInStandard int64
}

type fileSystemAnswer struct {
	OwnerID         string `json:"OwnerId"`
	CreationToken   string
	ID              string        `json:"FileSystemId"`
	ARN             string        `json:"FileSystemArn"`
	Created         service.Epoch `json:"CreationTime"`
	State           string        `json:"LifeCycleState"`
	Name            string        `json:",omitempty"`
	MountTargets    int           `json:"NumberOfMountTargets"`
	Size            size          `json:"SizeInBytes"`
	PerformanceMode string
	Encrypted       bool
	ThroughputMode  string
	Tags            []tag
}

func (a *api) shown(f fileSystem, s state) fileSystemAnswer {
	out := fileSystemAnswer{
		OwnerID: a.cfg.Cloud.AccountID(), CreationToken: f.Token, ID: f.ID, ARN: a.arn(f.ID), Created: service.Epoch(f.Created),
		State: a.lifeCycle(f.Created), Name: f.Tags["Name"], PerformanceMode: f.PerformanceMode, Encrypted: f.Encrypted,
		ThroughputMode: f.ThroughputMode, Tags: []tag{},
	}
	for _, t := range s.MountTargets {
		if t.FileSystemID == f.ID {
			out.MountTargets++
		}
	}
	for _, key := range slices.Sorted(maps.Keys(f.Tags)) {
		out.Tags = append(out.Tags, tag{key, f.Tags[key]})
	}
	return out
}

// authorize asks for the operation on a file system, which may not exist. The ID may be its ARN's.
func (a *api) authorize(c *service.Call, id string) error {
	keys := policy.Keys{}
	f, ok := a.store.Now().FileSystems[id]
	keys.Tags("aws:ResourceTag", f.Tags)
	if ok {
		keys.Set("elasticfilesystem:Encrypted", boolean(f.Encrypted))
	}
	return c.Authorize(a.arn(id), keys)
}

func boolean(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

type createFileSystemRequest struct {
	CreationToken   string
	PerformanceMode string
	ThroughputMode  string
	Encrypted       bool
	Backup          bool
	Tags            []tag
}

const maxToken = 64

func (a *api) createFileSystem(c *service.Call, in *createFileSystemRequest) (*fileSystemAnswer, error) {
	tags := map[string]string{}
	for _, t := range in.Tags {
		tags[t.Key] = t.Value
	}
	keys := policy.Keys{}
	keys.Set("elasticfilesystem:Encrypted", boolean(in.Encrypted))
	if len(tags) > 0 {
		keys.Tags("aws:RequestTag", tags)
		keys.Set("aws:TagKeys", slices.Sorted(maps.Keys(tags))...)
	}
	if err := c.Authorize("*", keys); err != nil {
		return nil, err
	}
	f := fileSystem{
		Token: in.CreationToken, PerformanceMode: cmp.Or(in.PerformanceMode, "generalPurpose"),
		ThroughputMode: cmp.Or(in.ThroughputMode, "bursting"), Encrypted: in.Encrypted, Created: a.cfg.Now().UTC(), Tags: tags,
	}
	switch {
	case f.Token == "" || len(f.Token) > maxToken:
		return nil, bad("CreationToken must have 1 to %d characters", maxToken)
	case !slices.Contains([]string{"generalPurpose", "maxIO"}, f.PerformanceMode):
		return nil, bad("PerformanceMode must be generalPurpose or maxIO")
	case !slices.Contains([]string{"bursting", "elastic"}, f.ThroughputMode):
		return nil, bad("ThroughputMode must be bursting or elastic here")
	}
	id, err := a.cfg.Cloud.NewID("fs")
	if err != nil {
		return nil, err
	}
	f.ID = id
	err = a.store.Change(func(s *state) error {
		for _, o := range s.FileSystems {
			if o.Token == f.Token {
				return &service.Error{Status: http.StatusConflict, Code: "FileSystemAlreadyExists",
					Message: "File system '" + o.ID + "' already exists with creation token '" + f.Token + "'",
					Fields:  map[string]string{"FileSystemId": o.ID}}
			}
		}
		s.FileSystems[f.ID] = f
		return nil
	})
	if err != nil {
		return nil, err
	}
	answer := a.shown(f, a.store.Now())
	return &answer, nil
}

type describeFileSystemsRequest struct {
	MaxItems      int `json:",string"`
	Marker        string
	CreationToken string
	ID            string `json:"FileSystemId"`
}

type describeFileSystemsAnswer struct {
	FileSystems []fileSystemAnswer
	NextMarker  string `json:",omitempty"`
}

func (a *api) describeFileSystems(c *service.Call, in *describeFileSystemsRequest) (*describeFileSystemsAnswer, error) {
	if err := a.authorize(c, cmp.Or(in.ID, "*")); err != nil {
		return nil, err
	}
	s := a.store.Now()
	if _, ok := s.FileSystems[in.ID]; in.ID != "" && !ok {
		return nil, noFileSystem(in.ID)
	}
	var all []fileSystem
	for _, f := range s.FileSystems {
		if (in.ID == "" || f.ID == in.ID) && (in.CreationToken == "" || f.Token == in.CreationToken) {
			all = append(all, f)
		}
	}
	all, next := page(all, in.MaxItems, in.Marker, func(f fileSystem) string { return f.ID })
	answer := &describeFileSystemsAnswer{FileSystems: []fileSystemAnswer{}, NextMarker: next}
	for _, f := range all {
		answer.FileSystems = append(answer.FileSystems, a.shown(f, s))
	}
	return answer, nil
}

// defaultPage is how many items there are in an answer unless the request says otherwise.
const defaultPage = 100

// page orders items by ID and returns those after the marker, with the marker of the rest.
func page[T any](all []T, limit int, marker string, id func(T) string) (some []T, next string) {
	if limit < 1 {
		limit = defaultPage
	}
	slices.SortFunc(all, func(x, y T) int { return cmp.Compare(id(x), id(y)) })
	all = slices.DeleteFunc(all, func(x T) bool { return id(x) <= marker })
	if len(all) > limit {
		return all[:limit], id(all[limit-1])
	}
	return all, ""
}

type fileSystemRequest struct {
	ID string `json:"FileSystemId"`
}

func (a *api) deleteFileSystem(c *service.Call, in *fileSystemRequest) error {
	if err := a.authorize(c, in.ID); err != nil {
		return err
	}
	return a.store.Change(func(s *state) error {
		if _, ok := s.FileSystems[in.ID]; !ok {
			return noFileSystem(in.ID)
		}
		for _, t := range s.MountTargets {
			if t.FileSystemID == in.ID {
				return service.Errorf(http.StatusConflict, "FileSystemInUse", "File system '%s' has mount targets.", in.ID)
			}
		}
		delete(s.FileSystems, in.ID)
		return nil
	})
}
