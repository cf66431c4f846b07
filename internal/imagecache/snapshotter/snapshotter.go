package snapshotter

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/source"
)

// Labels by which containerd says what a snapshot will be.
const (
	labelRef      = "containerd.io/snapshot.ref"
	labelImage    = "containerd.io/snapshot/cri.image-ref"
	labelManifest = "containerd.io/snapshot/cri.manifest-digest"
	labelDigest   = "containerd.io/snapshot/cri.layer-digest"

	labelUIDs = "containerd.io/snapshot/uidmapping"
	labelGIDs = "containerd.io/snapshot/gidmapping"
)

// Grants is whom the snapshotter asks which layers the cell may have.
type Grants interface {
	Grant(ctx context.Context, q grant.Question) (grant.Answer, error)
}

// Config is what a Snapshotter needs.
type Config struct {
	// Dir keeps the snapshots. It must be a directory that overlayfs takes.
	Dir string
	// Layers is where the files of Files are mounted.
	Layers string
	// Program is this program; it is run with MountCommand.
	Program string
	// Uncached are images that are no pod's own and are not asked for.
	Uncached []string

	Grants Grants
	Report func(grant.Report)
	Source *source.Source
	Files  *Files
	Logger *slog.Logger
}

// Snapshotter implements containerd's snapshots service.
type Snapshotter struct {
	snapshots.UnimplementedSnapshotsServer
	cfg Config
	// overlay are options of every overlay mount.
	overlay []string

	mu    sync.Mutex
	store *store

	answers answers
}

var _ snapshots.SnapshotsServer = (*Snapshotter)(nil)

// New returns a Snapshotter that goes on where an earlier one ended, and removes
// what that one left half done. Layers of the cache that should be mounted and
// are not are mounted by Recover.
func New(cfg Config) (*Snapshotter, error) {
	store, debris, err := openStore(cfg.Dir)
	if err != nil {
		return nil, err
	}
	s := &Snapshotter{cfg: cfg, store: store, answers: answers{last: map[grant.Question]*answer{}}}
	if _, err := os.Stat("/sys/module/overlay/parameters/index"); err == nil {
		// A lower layer may be beneath several upper ones.
		s.overlay = append(s.overlay, "index=off")
	}
	for _, dir := range debris {
		s.discard(dir)
	}
	for _, sn := range store.keys {
		if sn.Cached != nil {
			l := cfg.Source.Layer(strconv.FormatUint(sn.ID, 10), sn.Cached.Of, sn.Cached.Layer)
			l.Need()
			cfg.Files.add(sn.ID, l)
		}
	}
	return s, nil
}

// Recover mounts layers that an earlier process had mounted and that are not
// mounted any more, as after a reboot. The files must be served.
func (s *Snapshotter) Recover(ctx context.Context) error {
	mounted, err := mountedBelow(s.store.dir)
	if err != nil {
		return err
	}
	for _, sn := range s.store.keys {
		if sn.Cached != nil && !mounted[s.store.fs(sn.ID)] {
			if err := s.mount(ctx, sn.ID); err != nil {
				return fmt.Errorf("mounting the layer %s again: %w", sn.Cached.Layer.Digest, err)
			}
		}
	}
	return nil
}

func (s *Snapshotter) layerFile(id uint64) string {
	return filepath.Join(s.cfg.Layers, strconv.FormatUint(id, 10))
}

// discard removes a directory that no record is in any more.
func (s *Snapshotter) discard(dir string) {
	err := unmount(filepath.Join(dir, "fs"))
	if err == nil {
		err = os.RemoveAll(dir)
	}
	if err != nil {
		s.cfg.Logger.Warn("a snapshot's directory cannot be removed", "dir", dir, "error", err)
	}
}

// Prepare implements containerd's service.
func (s *Snapshotter) Prepare(ctx context.Context, r *snapshots.PrepareSnapshotRequest) (*snapshots.PrepareSnapshotResponse, error) {
	if ref := r.Labels[labelRef]; ref != "" {
		there, err := s.fromCache(ctx, ref, r)
		if err != nil {
			return nil, internal(err)
		}
		if there {
			return nil, status.Errorf(codes.AlreadyExists, "snapshot %s is in the image cache", ref)
		}
	}
	mounts, err := s.create(active, r.Key, r.Parent, r.Labels)
	if err != nil {
		return nil, err
	}
	return &snapshots.PrepareSnapshotResponse{Mounts: mounts}, nil
}

// View implements containerd's service.
func (s *Snapshotter) View(_ context.Context, r *snapshots.ViewSnapshotRequest) (*snapshots.ViewSnapshotResponse, error) {
	mounts, err := s.create(view, r.Key, r.Parent, r.Labels)
	if err != nil {
		return nil, err
	}
	return &snapshots.ViewSnapshotResponse{Mounts: mounts}, nil
}

// create makes a snapshot on top of another.
func (s *Snapshotter) create(k kind, key, parent string, labels map[string]string) ([]*types.Mount, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.mayCreate(key, parent); err != nil {
		return nil, err
	}
	id, err := s.store.newID()
	if err != nil {
		return nil, internal(err)
	}
	now := time.Now().UTC()
	sn := &snapshot{ID: id, Key: key, Parent: parent, Kind: k, Labels: labels, Created: now, Updated: now}
	if err = s.makeDirs(sn); err == nil {
		err = s.store.put(sn, "")
	}
	if err != nil {
		s.discard(s.store.path(id))
		return nil, internal(err)
	}
	return s.mounts(sn), nil
}

func (s *Snapshotter) mayCreate(key, parent string) error {
	if key == "" {
		return status.Error(codes.InvalidArgument, "a snapshot needs a key")
	}
	if s.store.keys[key] != nil {
		return status.Errorf(codes.AlreadyExists, "snapshot %s exists", key)
	}
	if parent == "" {
		return nil
	}
	switch p := s.store.keys[parent]; {
	case p == nil:
		return status.Errorf(codes.NotFound, "parent snapshot %s does not exist", parent)
	case p.Kind != committed:
		return status.Errorf(codes.InvalidArgument, "parent snapshot %s is not committed", parent)
	}
	return nil
}

// makeDirs makes what a snapshot's mounts need. The root of its files belongs to
// whom the root beneath belongs to.
func (s *Snapshotter) makeDirs(sn *snapshot) error {
	if err := os.Mkdir(s.store.fs(sn.ID), 0o755); err != nil {
		return fmt.Errorf("making a snapshot: %w", err)
	}
	if sn.Kind == active {
		if err := os.Mkdir(s.store.work(sn.ID), 0o711); err != nil {
			return fmt.Errorf("making a snapshot: %w", err)
		}
	}
	uid, gid, mapped, err := rootOf(sn.Labels)
	if err != nil {
		return err
	}
	if p := s.store.keys[sn.Parent]; p != nil && !mapped {
		// The root of a mounted layer is in the kernel's memory: this reads
		// nothing of what this process serves.
		info, err := os.Stat(s.store.fs(p.ID))
		if err != nil {
			return fmt.Errorf("making a snapshot: %w", err)
		}
		if owner, ok := info.Sys().(*syscall.Stat_t); ok {
			uid, gid, mapped = int(owner.Uid), int(owner.Gid), true
		}
	}
	if !mapped {
		return nil
	}
	if err := os.Lchown(s.store.fs(sn.ID), uid, gid); err != nil {
		return fmt.Errorf("making a snapshot: %w", err)
	}
	return nil
}

// rootOf returns whom root of a pod's user namespace is outside. A mapping is
// "inside:outside:length", of which the first with root counts.
func rootOf(labels map[string]string) (uid, gid int, mapped bool, err error) {
	if labels[labelUIDs] == "" && labels[labelGIDs] == "" {
		return 0, 0, false, nil
	}
	outside := func(mappings string) (int, error) {
		for m := range strings.SplitSeq(mappings, ",") {
			if rest, ok := strings.CutPrefix(m, "0:"); ok {
				first, _, _ := strings.Cut(rest, ":")
				return strconv.Atoi(first)
			}
		}
		return 0, fmt.Errorf("the mapping %q has no root", mappings)
	}
	uid, uidErr := outside(labels[labelUIDs])
	gid, gidErr := outside(labels[labelGIDs])
	return uid, gid, true, errors.Join(uidErr, gidErr)
}

// Mounts implements containerd's service.
func (s *Snapshotter) Mounts(_ context.Context, r *snapshots.MountsRequest) (*snapshots.MountsResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn, err := s.get(r.Key)
	if err != nil {
		return nil, err
	}
	if sn.Kind == committed {
		return nil, status.Errorf(codes.FailedPrecondition, "snapshot %s is committed", r.Key)
	}
	return &snapshots.MountsResponse{Mounts: s.mounts(sn)}, nil
}

func (s *Snapshotter) get(key string) (*snapshot, error) {
	if sn := s.store.keys[key]; sn != nil {
		return sn, nil
	}
	return nil, status.Errorf(codes.NotFound, "snapshot %s does not exist", key)
}

// mounts says how to see the snapshot's files.
func (s *Snapshotter) mounts(sn *snapshot) []*types.Mount {
	var options []string
	if m := sn.Labels[labelUIDs]; m != "" {
		options = append(options, "uidmap="+m)
	}
	if m := sn.Labels[labelGIDs]; m != "" {
		options = append(options, "gidmap="+m)
	}
	lineage := s.store.lineage(sn)
	bind := func(dir, mode string) []*types.Mount {
		return []*types.Mount{{Type: "bind", Source: dir, Options: append(options, mode, "rbind")}}
	}
	switch {
	case len(lineage) == 0 && sn.Kind == view:
		return bind(s.store.fs(sn.ID), "ro")
	case len(lineage) == 0:
		return bind(s.store.fs(sn.ID), "rw")
	case len(lineage) == 1 && sn.Kind == view:
		return bind(s.store.fs(lineage[0].ID), "ro")
	}
	if sn.Kind == active {
		options = append(options, "workdir="+s.store.work(sn.ID), "upperdir="+s.store.fs(sn.ID))
	}
	lower := make([]string, 0, len(lineage))
	for _, p := range lineage {
		lower = append(lower, s.store.fs(p.ID))
	}
	options = append(options, "lowerdir="+strings.Join(lower, ":"))
	return []*types.Mount{{Type: "overlay", Source: "overlay", Options: append(options, s.overlay...)}}
}

// Commit implements containerd's service.
func (s *Snapshotter) Commit(_ context.Context, r *snapshots.CommitSnapshotRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn, err := s.get(r.Key)
	if err != nil {
		return nil, err
	}
	switch {
	case sn.Kind != active:
		return nil, status.Errorf(codes.FailedPrecondition, "snapshot %s is not active", r.Key)
	case s.store.keys[r.Name] != nil:
		return nil, status.Errorf(codes.AlreadyExists, "snapshot %s exists", r.Name)
	case r.Parent != "" && r.Parent != sn.Parent:
		return nil, status.Error(codes.InvalidArgument, "a snapshot keeps its parent")
	}
	done := *sn
	if done.Size, done.Inodes, err = usage(s.store.fs(sn.ID)); err != nil {
		return nil, internal(err)
	}
	done.Key, done.Kind, done.Labels = r.Name, committed, r.Labels
	done.Updated = time.Now().UTC()
	done.Created = done.Updated
	if err := s.store.put(&done, r.Key); err != nil {
		return nil, internal(err)
	}
	return &emptypb.Empty{}, nil
}

// Remove implements containerd's service.
func (s *Snapshotter) Remove(_ context.Context, r *snapshots.RemoveSnapshotRequest) (*emptypb.Empty, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn, err := s.get(r.Key)
	if err != nil {
		return nil, err
	}
	if s.store.children(r.Key) {
		return nil, status.Errorf(codes.FailedPrecondition, "snapshot %s has others on top of it", r.Key)
	}
	if err := s.store.forget(sn); err != nil {
		return nil, internal(err)
	}
	s.discard(s.store.path(sn.ID))
	if sn.Cached != nil {
		if err := s.cfg.Files.remove(sn.ID); err != nil {
			s.cfg.Logger.Warn("a layer's file cannot be removed", "error", err)
		}
	}
	return &emptypb.Empty{}, nil
}

// Stat implements containerd's service.
func (s *Snapshotter) Stat(_ context.Context, r *snapshots.StatSnapshotRequest) (*snapshots.StatSnapshotResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn, err := s.get(r.Key)
	if err != nil {
		return nil, err
	}
	return &snapshots.StatSnapshotResponse{Info: info(sn)}, nil
}

// Update implements containerd's service. Only labels can change.
func (s *Snapshotter) Update(_ context.Context, r *snapshots.UpdateSnapshotRequest) (*snapshots.UpdateSnapshotResponse, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	sn, err := s.get(r.GetInfo().GetName())
	if err != nil {
		return nil, err
	}
	changed := *sn
	changed.Labels = map[string]string{}
	paths := r.GetUpdateMask().GetPaths()
	if len(paths) == 0 || slices.Contains(paths, "labels") {
		paths = nil
		for k, v := range r.Info.Labels {
			changed.Labels[k] = v
		}
	} else {
		for k, v := range sn.Labels {
			changed.Labels[k] = v
		}
	}
	for _, path := range paths {
		name, ok := strings.CutPrefix(path, "labels.")
		if !ok {
			return nil, status.Errorf(codes.InvalidArgument, "%s of a snapshot cannot be changed", path)
		}
		if v := r.Info.Labels[name]; v != "" {
			changed.Labels[name] = v
		} else {
			delete(changed.Labels, name)
		}
	}
	changed.Updated = time.Now().UTC()
	if err := s.store.put(&changed, sn.Key); err != nil {
		return nil, internal(err)
	}
	return &snapshots.UpdateSnapshotResponse{Info: info(&changed)}, nil
}

// List implements containerd's service. Filters are not looked at, which
// containerd, that asks for one snapshot at most, expects of some.
func (s *Snapshotter) List(_ *snapshots.ListSnapshotsRequest, stream snapshots.Snapshots_ListServer) error {
	s.mu.Lock()
	var all []*snapshots.Info
	for _, sn := range s.store.keys {
		all = append(all, info(sn))
	}
	s.mu.Unlock()
	for part := range slices.Chunk(all, 100) {
		if err := stream.Send(&snapshots.ListSnapshotsResponse{Info: part}); err != nil {
			return fmt.Errorf("listing snapshots: %w", err)
		}
	}
	return nil
}

// Usage implements containerd's service. A layer of the cache takes nothing of
// the disk.
func (s *Snapshotter) Usage(_ context.Context, r *snapshots.UsageRequest) (*snapshots.UsageResponse, error) {
	s.mu.Lock()
	sn, err := s.get(r.Key)
	s.mu.Unlock()
	if err != nil {
		return nil, err
	}
	size, inodes := sn.Size, sn.Inodes
	if sn.Kind == active {
		if size, inodes, err = usage(s.store.fs(sn.ID)); err != nil {
			return nil, internal(err)
		}
	}
	return &snapshots.UsageResponse{Size: size, Inodes: inodes}, nil
}

// Cleanup implements containerd's service: nothing is left to be removed later.
func (*Snapshotter) Cleanup(context.Context, *snapshots.CleanupRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}

func info(sn *snapshot) *snapshots.Info {
	kinds := map[kind]snapshots.Kind{active: snapshots.Kind_ACTIVE, view: snapshots.Kind_VIEW, committed: snapshots.Kind_COMMITTED}
	return &snapshots.Info{
		Name: sn.Key, Parent: sn.Parent, Kind: kinds[sn.Kind], Labels: sn.Labels,
		CreatedAt: timestamppb.New(sn.Created), UpdatedAt: timestamppb.New(sn.Updated),
	}
}

// usage counts what is in a directory: bytes of the disk and inodes.
func usage(dir string) (size, inodes int64, err error) {
	seen := map[uint64]bool{}
	err = filepath.WalkDir(dir, func(_ string, e os.DirEntry, err error) error {
		if errors.Is(err, os.ErrNotExist) { // the pod removed it meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		stat, err := e.Info()
		if errors.Is(err, os.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		if at, ok := stat.Sys().(*syscall.Stat_t); ok && !seen[at.Ino] {
			seen[at.Ino] = true
			size, inodes = size+at.Blocks*512, inodes+1
		}
		return nil
	})
	if err != nil {
		return 0, 0, fmt.Errorf("counting what a snapshot takes: %w", err)
	}
	return size, inodes, nil
}

// internal is an error that is not the caller's.
func internal(err error) error {
	if _, ok := status.FromError(err); ok {
		return err
	}
	return status.Error(codes.Internal, err.Error())
}
