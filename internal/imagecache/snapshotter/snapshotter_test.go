package snapshotter

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	snapshots "github.com/containerd/containerd/api/services/snapshots/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/google/go-cmp/cmp"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/fieldmaskpb"
)

func newSnapshotter(t *testing.T, dir string) *Snapshotter {
	t.Helper()
	s, err := New(Config{Dir: dir, Files: NewFiles(), Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	s.overlay = nil
	return s
}

func (s *Snapshotter) mustPrepare(t *testing.T, key, parent string) []*types.Mount {
	t.Helper()
	r, err := s.Prepare(t.Context(), &snapshots.PrepareSnapshotRequest{Key: key, Parent: parent})
	if err != nil {
		t.Fatal(err)
	}
	return r.Mounts
}

func (s *Snapshotter) mustCommit(t *testing.T, name, key string) {
	t.Helper()
	if _, err := s.Commit(t.Context(), &snapshots.CommitSnapshotRequest{Name: name, Key: key, Labels: map[string]string{labelRef: name}}); err != nil {
		t.Fatal(err)
	}
}

// render writes mounts as one line each, without the directory.
func render(mounts []*types.Mount, dir string) []string {
	var lines []string
	for _, m := range mounts {
		lines = append(lines, strings.ReplaceAll(m.Type+" "+m.Source+" "+strings.Join(m.Options, ","), dir+"/", ""))
	}
	return lines
}

func TestMounts(t *testing.T) {
	dir := t.TempDir()
	s := newSnapshotter(t, dir)
	if diff := cmp.Diff([]string{"bind 0/fs rw,rbind"}, render(s.mustPrepare(t, "a", ""), dir)); diff != "" {
		t.Errorf("the lowest layer (-want +got):\n%s", diff)
	}
	s.mustCommit(t, "A", "a")
	if diff := cmp.Diff([]string{"overlay overlay workdir=1/work,upperdir=1/fs,lowerdir=0/fs"}, render(s.mustPrepare(t, "b", "A"), dir)); diff != "" {
		t.Errorf("the second layer (-want +got):\n%s", diff)
	}
	s.mustCommit(t, "B", "b")
	if diff := cmp.Diff([]string{"overlay overlay workdir=2/work,upperdir=2/fs,lowerdir=1/fs:0/fs"}, render(s.mustPrepare(t, "c", "B"), dir)); diff != "" {
		t.Errorf("a container (-want +got):\n%s", diff)
	}
	for parent, want := range map[string]string{"A": "bind 0/fs ro,rbind", "B": "overlay overlay lowerdir=1/fs:0/fs"} {
		r, err := s.View(t.Context(), &snapshots.ViewSnapshotRequest{Key: "view " + parent, Parent: parent})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff([]string{want}, render(r.Mounts, dir)); diff != "" {
			t.Errorf("a view of %s (-want +got):\n%s", parent, diff)
		}
	}

	// The next process knows all of it, and makes others.
	again := newSnapshotter(t, dir)
	r, err := again.Mounts(t.Context(), &snapshots.MountsRequest{Key: "c"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff([]string{"overlay overlay workdir=2/work,upperdir=2/fs,lowerdir=1/fs:0/fs"}, render(r.Mounts, dir)); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	if got := render(again.mustPrepare(t, "d", ""), dir); got[0] != "bind 5/fs rw,rbind" {
		t.Errorf("after a restart an ID is used again: %s", got)
	}
}

func TestUserNamespace(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("giving files away needs root")
	}
	dir := t.TempDir()
	s := newSnapshotter(t, dir)
	s.mustPrepare(t, "a", "")
	s.mustCommit(t, "A", "a")
	r, err := s.Prepare(t.Context(), &snapshots.PrepareSnapshotRequest{Key: "b", Parent: "A", Labels: map[string]string{
		labelUIDs: "0:100000:65536", labelGIDs: "0:200000:65536",
	}})
	if err != nil {
		t.Fatal(err)
	}
	want := "overlay overlay uidmap=0:100000:65536,gidmap=0:200000:65536,workdir=1/work,upperdir=1/fs,lowerdir=0/fs"
	if diff := cmp.Diff([]string{want}, render(r.Mounts, dir)); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	uid, gid, _, err := rootOf(map[string]string{labelUIDs: "0:100000:65536", labelGIDs: "5:1:2,0:200000:65536"})
	if uid != 100000 || gid != 200000 || err != nil {
		t.Errorf("root is %d:%d, %v", uid, gid, err)
	}
	if _, err := s.Prepare(t.Context(), &snapshots.PrepareSnapshotRequest{Key: "c", Labels: map[string]string{labelUIDs: "1:2:3"}}); err == nil {
		t.Error("a mapping without root is taken")
	}
}

func TestRefuses(t *testing.T) {
	s := newSnapshotter(t, t.TempDir())
	s.mustPrepare(t, "a", "")
	s.mustCommit(t, "A", "a")
	s.mustPrepare(t, "b", "A")
	ctx := t.Context()
	for name, tc := range map[string]struct {
		call func() error
		want codes.Code
	}{
		"prepare without a key": {func() error {
			_, err := s.Prepare(ctx, &snapshots.PrepareSnapshotRequest{})
			return err
		}, codes.InvalidArgument},
		"prepare what exists": {func() error {
			_, err := s.Prepare(ctx, &snapshots.PrepareSnapshotRequest{Key: "b"})
			return err
		}, codes.AlreadyExists},
		"prepare on nothing": {func() error {
			_, err := s.Prepare(ctx, &snapshots.PrepareSnapshotRequest{Key: "c", Parent: "none"})
			return err
		}, codes.NotFound},
		"prepare on what changes": {func() error {
			_, err := s.View(ctx, &snapshots.ViewSnapshotRequest{Key: "c", Parent: "b"})
			return err
		}, codes.InvalidArgument},
		"commit under a name that is taken": {func() error {
			_, err := s.Commit(ctx, &snapshots.CommitSnapshotRequest{Key: "b", Name: "A"})
			return err
		}, codes.AlreadyExists},
		"commit what is committed": {func() error {
			_, err := s.Commit(ctx, &snapshots.CommitSnapshotRequest{Key: "A", Name: "B"})
			return err
		}, codes.FailedPrecondition},
		"commit nothing": {func() error {
			_, err := s.Commit(ctx, &snapshots.CommitSnapshotRequest{Key: "none", Name: "B"})
			return err
		}, codes.NotFound},
		"mounts of what is committed": {func() error {
			_, err := s.Mounts(ctx, &snapshots.MountsRequest{Key: "A"})
			return err
		}, codes.FailedPrecondition},
		"remove what others are on": {func() error {
			_, err := s.Remove(ctx, &snapshots.RemoveSnapshotRequest{Key: "A"})
			return err
		}, codes.FailedPrecondition},
		"remove nothing": {func() error {
			_, err := s.Remove(ctx, &snapshots.RemoveSnapshotRequest{Key: "none"})
			return err
		}, codes.NotFound},
		"change the kind": {func() error {
			_, err := s.Update(ctx, &snapshots.UpdateSnapshotRequest{Info: &snapshots.Info{Name: "A"}, UpdateMask: &fieldmaskpb.FieldMask{Paths: []string{"kind"}}})
			return err
		}, codes.InvalidArgument},
	} {
		if got := status.Code(tc.call()); got != tc.want {
			t.Errorf("%s: %s, want %s", name, got, tc.want)
		}
	}
}

func TestUpdateLabels(t *testing.T) {
	dir := t.TempDir()
	s := newSnapshotter(t, dir)
	s.mustPrepare(t, "a", "")
	for _, step := range []struct {
		labels map[string]string
		paths  []string
		want   map[string]string
	}{
		{map[string]string{"x": "1", "y": "2"}, nil, map[string]string{"x": "1", "y": "2"}},
		{map[string]string{"x": "3", "z": "4"}, []string{"labels.x", "labels.y"}, map[string]string{"x": "3"}},
		{map[string]string{"z": "4"}, []string{"labels"}, map[string]string{"z": "4"}},
	} {
		_, err := s.Update(t.Context(), &snapshots.UpdateSnapshotRequest{
			Info: &snapshots.Info{Name: "a", Labels: step.labels}, UpdateMask: &fieldmaskpb.FieldMask{Paths: step.paths},
		})
		if err != nil {
			t.Fatal(err)
		}
		r, err := newSnapshotter(t, dir).Stat(t.Context(), &snapshots.StatSnapshotRequest{Key: "a"})
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(step.want, r.Info.Labels); diff != "" {
			t.Errorf("%v (-want +got):\n%s", step.paths, diff)
		}
	}
}

func TestUsage(t *testing.T) {
	s := newSnapshotter(t, t.TempDir())
	s.mustPrepare(t, "a", "")
	file := filepath.Join(s.store.fs(0), "file")
	if err := os.WriteFile(file, make([]byte, 100<<10), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Link(file, file+"2"); err != nil {
		t.Fatal(err)
	}
	before, err := s.Usage(t.Context(), &snapshots.UsageRequest{Key: "a"})
	if err != nil || before.Inodes != 2 || before.Size < 100<<10 || before.Size > 150<<10 {
		t.Errorf("%v, %v: want a directory and a file of 100 KiB", before, err)
	}
	s.mustCommit(t, "A", "a")
	if after, err := s.Usage(t.Context(), &snapshots.UsageRequest{Key: "A"}); err != nil || after.Size != before.Size {
		t.Errorf("committed: %v, %v", after, err)
	}
}

// A process that was killed leaves directories without a record.
func TestDebrisIsRemoved(t *testing.T) {
	dir := t.TempDir()
	if err := os.MkdirAll(filepath.Join(dir, "7", "fs", "half"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "7", recordFile+".new"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	s := newSnapshotter(t, dir)
	if _, err := os.Stat(filepath.Join(dir, "7")); !os.IsNotExist(err) {
		t.Errorf("it is still there: %v", err)
	}
	if got := render(s.mustPrepare(t, "a", ""), dir); got[0] != "bind 8/fs rw,rbind" {
		t.Errorf("its ID is used again: %s", got)
	}
}

// TestChainID: the value is what OCI's library makes of these two.
func TestChainID(t *testing.T) {
	a, b := "sha256:"+strings.Repeat("a", 64), "sha256:"+strings.Repeat("b", 64)
	if got := chainID("", a); got != a {
		t.Errorf("the lowest layer: %s", got)
	}
	if got, want := chainID(a, b), "sha256:ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c"; got != want {
		t.Errorf("%s, want %s", got, want)
	}
}
