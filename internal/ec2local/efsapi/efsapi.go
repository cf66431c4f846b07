// Package efsapi speaks EFS's API: file systems and their mount targets, which take addresses of the account's subnets.
// They are records only: nothing serves NFS at a mount target's address.
package efsapi

import (
	"log/slog"
	"maps"
	"net/http"
	"net/netip"
	"path/filepath"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/statefile"
)

// Config is what the service is made of.
type Config struct {
	// Dir keeps the records.
	Dir string
	// Cloud is the account that mount targets are in.
	Cloud *cloud.Cloud
	Gate  *access.Gate
	Now   func() time.Time
	Log   *slog.Logger
}

type api struct {
	cfg   Config
	store *statefile.Store[state]
}

// state is what is on disk.
type state struct {
	FileSystems  map[string]fileSystem  // by ID
	MountTargets map[string]mountTarget // by ID
}

// Clone implements [statefile.State].
func (s state) Clone() state {
	return state{FileSystems: maps.Clone(s.FileSystems), MountTargets: maps.Clone(s.MountTargets)}
}

type fileSystem struct {
	ID, Token, PerformanceMode, ThroughputMode string
	Encrypted                                  bool
	Created                                    time.Time
	Tags                                       map[string]string
}

type mountTarget struct {
	ID, FileSystemID, SubnetID, InterfaceID string
	Address                                 netip.Addr
	Groups                                  []string
	Created                                 time.Time
}

// creating is how long file systems and mount targets are being made.
const creating = time.Second

// lifeCycle is the state of what was made at a time.
func (a *api) lifeCycle(created time.Time) string {
	if a.cfg.Now().Before(created.Add(creating)) {
		return "creating"
	}
	return "available"
}

// New makes the service.
func New(cfg Config) (*service.Server, error) {
	store, err := statefile.Open(filepath.Join(cfg.Dir, "efs.json"), state{
		FileSystems: map[string]fileSystem{}, MountTargets: map[string]mountTarget{},
	})
	if err != nil {
		return nil, err
	}
	a := &api{cfg, store}
	for _, t := range store.Now().MountTargets {
		if _, err := cfg.Cloud.Hold(t.SubnetID, t.Address); err != nil {
			return nil, err
		}
	}
	return &service.Server{
		Prefix: "elasticfilesystem", Protocol: service.REST{Routes: routes}, Gate: cfg.Gate, Log: cfg.Log,
		Operations: map[string]service.Operation{
			"CreateFileSystem":                  service.Op(a.createFileSystem),
			"CreateMountTarget":                 service.Op(a.createMountTarget),
			"DeleteFileSystem":                  service.Silent(a.deleteFileSystem),
			"DeleteMountTarget":                 service.Silent(a.deleteMountTarget),
			"DescribeFileSystems":               service.Op(a.describeFileSystems),
			"DescribeMountTargetSecurityGroups": service.Op(a.describeGroups),
			"DescribeMountTargets":              service.Op(a.describeMountTargets),
			"ModifyMountTargetSecurityGroups":   service.Silent(a.modifyGroups),
		},
	}, nil
}

// Where the operations are.
const (
	fileSystemsPath  = "/2015-02-01/file-systems"
	mountTargetsPath = "/2015-02-01/mount-targets"
	oneTarget        = mountTargetsPath + "/{MountTargetId}"
)

var routes = []service.Route{
	{Action: "CreateFileSystem", Method: http.MethodPost, Path: fileSystemsPath, Status: http.StatusCreated},
	{Action: "DescribeFileSystems", Method: http.MethodGet, Path: fileSystemsPath, Status: http.StatusOK},
	{Action: "DeleteFileSystem", Method: http.MethodDelete, Path: fileSystemsPath + "/{FileSystemId}", Status: http.StatusNoContent},
	{Action: "CreateMountTarget", Method: http.MethodPost, Path: mountTargetsPath, Status: http.StatusOK},
	{Action: "DescribeMountTargets", Method: http.MethodGet, Path: mountTargetsPath, Status: http.StatusOK},
	{Action: "DeleteMountTarget", Method: http.MethodDelete, Path: oneTarget, Status: http.StatusNoContent},
	{Action: "DescribeMountTargetSecurityGroups", Method: http.MethodGet, Path: oneTarget + "/security-groups", Status: http.StatusOK},
	{Action: "ModifyMountTargetSecurityGroups", Method: http.MethodPut, Path: oneTarget + "/security-groups", Status: http.StatusNoContent},
}

func (a *api) arn(id string) string {
	return "arn:aws:elasticfilesystem:" + a.cfg.Cloud.Region() + ":" + a.cfg.Cloud.AccountID() + ":file-system/" + id
}

func bad(format string, args ...any) error {
	return service.Errorf(http.StatusBadRequest, "BadRequest", format, args...)
}

func noFileSystem(id string) error {
	return service.Errorf(http.StatusNotFound, "FileSystemNotFound", "File system '%s' does not exist.", id)
}
