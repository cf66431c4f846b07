package imagecache

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/imagecache/settings"
)

func TestMountShare(t *testing.T) {
	const nfs = "addr=10.0.0.7,vers=4.1,soft,timeo=30,retrans=1,proto=tcp,port=2049,rsize=1048576,noresvport"
	for name, tc := range map[string]struct {
		reason   string
		endpoint string
		// refuses are the options that the kernel does not take.
		refuses string
		lookUp  error
		want    []string
		fails   bool
	}{
		"NFS": {
			reason: "a name must be an address for the kernel", endpoint: "fs-1.efs.example:/cache",
			want: []string{"fs-1.efs.example:/cache nfs4 " + nfs},
		},
		"Refused": {
			reason: "the kernel's reason is said", endpoint: "a:/", refuses: "vers", fails: true,
			want: []string{"a:/ nfs4 " + nfs},
		},
		"NoName":    {reason: "nothing is mounted", endpoint: "a:/", lookUp: errors.New("no such host"), fails: true},
		"Directory": {reason: "of the machine itself", endpoint: "/srv/cache", want: []string{"/srv/cache  ", "  "}},
	} {
		t.Run(name, func(t *testing.T) {
			var got []string
			err := mountShare(t.Context(), tc.endpoint, "/target", func(source, target, kind string, flags uintptr, data string) error {
				if target != "/target" {
					t.Errorf("mounts at %s", target)
				}
				if kind != "" && flags&unix.MS_RDONLY == 0 {
					t.Error("mounts for writing")
				}
				got = append(got, source+" "+kind+" "+data)
				if tc.refuses != "" && strings.Contains(data, tc.refuses) {
					return unix.EPROTONOSUPPORT
				}
				return nil
			}, func(context.Context, string) ([]string, error) { return []string{"10.0.0.7", "10.0.0.8"}, tc.lookUp })
			if diff := cmp.Diff(tc.want, got); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			if (err != nil) != tc.fails {
				t.Errorf("%s: %v", tc.reason, err)
			}
		})
	}
}

// TestBind mounts a directory for real: nobody can write through it.
func TestBind(t *testing.T) {
	if os.Getuid() != 0 {
		t.Skip("mounting needs root")
	}
	share, target := t.TempDir(), t.TempDir()
	if err := os.WriteFile(filepath.Join(share, "file"), []byte("x"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := mountShare(t.Context(), share, target, unix.Mount, nil); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := unix.Unmount(target, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	}()
	if got, err := os.ReadFile(filepath.Join(target, "file")); err != nil || string(got) != "x" {
		t.Errorf("%q, %v", got, err)
	}
	if err := os.WriteFile(filepath.Join(target, "file"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("writing: %v, want %v", err, unix.EROFS)
	}
}

func TestWriteSettings(t *testing.T) {
	root := t.TempDir()
	mirrors := map[string][]string{"docker.io": {"http://10.0.0.1:5000"}}
	if err := WriteSettings(root, "registry.k8s.io/pause:3", mirrors); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(filepath.Join(root, SettingsFile))
	if err != nil {
		t.Fatal(err)
	}
	var got settings.Settings
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := settings.Settings{
		Socket: Socket, Agent: AgentSocket, Dir: Dir, Layers: layersDir, Share: shareDir,
		Uncached: []string{"registry.k8s.io/pause:3"}, Mirrors: mirrors,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
