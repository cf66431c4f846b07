package agent_test

import (
	"archive/tar"
	"bytes"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/elotl/kip/v2/internal/agent/imagecache"
	"github.com/elotl/kip/v2/internal/agent/status"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
	"github.com/elotl/kip/v2/internal/imagecache/convert"
	"github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
	"github.com/elotl/kip/v2/internal/userdata"
)

const (
	cachedRegistry = "cached.test"
	cachedImage    = cachedRegistry + "/web:1"
	// cacheDir is the share, a directory of the machine.
	cacheDir = "/opt/kip/cache"
)

// TestBootFromImageCache: a pod runs from an image whose layer no registry gives
// out, since the cache has it, and outlives the program that serves it.
func TestBootFromImageCache(t *testing.T) {
	b := newBoot(t)
	build(t, "../../cmd/kip-snapshotter", filepath.Join(b.spec.Image, "rootfs/opt/kip/bin", imagecache.Program))
	address := net.JoinHostPort(vpcnet.Config{CIDR: netip.MustParsePrefix("10.223.0.0/16")}.HostAddress().String(), "5002")
	granted := serveCached(t, address, filepath.Join(b.spec.Image, "rootfs", cacheDir))
	b.changeUserData(t, func(d *userdata.Document) {
		d.ImageCache = cacheDir
		d.RegistryMirrors = append(d.RegistryMirrors, userdata.Mirror{Hosts: []string{cachedRegistry}, Endpoint: "http://" + address})
	})

	kip := newFakeKip(t, b.node())
	kip.pod = b.pod()
	kip.pod.Spec.Containers[0].Image = cachedImage
	var mu sync.Mutex
	var asked []grant.Question
	var reports []string
	mux := http.NewServeMux()
	mux.Handle("/", kip)
	mux.HandleFunc("POST "+grant.Path, func(w http.ResponseWriter, r *http.Request) {
		var q grant.Question
		if err := json.NewDecoder(r.Body).Decode(&q); err != nil {
			t.Error(err)
		}
		mu.Lock()
		defer mu.Unlock()
		asked = append(asked, q)
		_ = json.NewEncoder(w).Encode(grant.Answer{Layers: []layer.Layer{granted}})
	})
	mux.HandleFunc("POST "+grant.ReportPath, func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		mu.Lock()
		defer mu.Unlock()
		reports = append(reports, string(body))
	})
	b.up(t, kip, mux)
	b.open(t)
	first := b.askPod(t)

	// The pod's shim holds what is mounted; what serves it dies and comes back.
	b.kill(t, imagecache.Program)
	b.awaitStatus(t, "the snapshotter restarted", func(s status.Status) bool {
		service := s.Services[imagecache.Program]
		return service.Running && service.Restarts == 1
	})
	if said, _ := b.exec(t, "/pod", "say", "hello"); said != "hello\n" {
		t.Errorf("after the restart the pod says %q", said)
	}
	if again := b.askPod(t); startOf(again) != startOf(first) {
		t.Errorf("the pod's container did not outlive the snapshotter: %q, then %q", first, again)
	}
	for _, m := range b.status(t).Memory {
		t.Logf("memory: %-16s %6d KiB anonymous, %6d KiB resident", m.Name, m.AnonymousKiB, m.ResidentKiB)
	}
	mu.Lock()
	defer mu.Unlock()
	if len(asked) != 1 || asked[0].Image != cachedImage || !strings.HasPrefix(asked[0].Manifest, "sha256:") {
		t.Errorf("Kip was asked %v, want once for the pod's image", asked)
	}
	if len(reports) != 0 {
		t.Errorf("reports: %v", reports)
	}
}

// changeUserData changes what the cell will be told.
func (b *boot) changeUserData(t *testing.T, change func(*userdata.Document)) {
	t.Helper()
	doc, err := userdata.Decode([]byte(b.metadata.items["/latest/user-data"]))
	if err != nil {
		t.Fatal(err)
	}
	change(&doc)
	data, err := userdata.Encode(doc)
	if err != nil {
		t.Fatal(err)
	}
	b.metadata.set("/latest/user-data", string(data))
}

// serveCached runs a registry that has an image and refuses its layer, and puts
// that into the cache.
func serveCached(t *testing.T, address, share string) layer.Layer {
	t.Helper()
	program := filepath.Join(t.TempDir(), "pod")
	build(t, "./testdata/pod", program)
	content, err := os.ReadFile(program)
	if err != nil {
		t.Fatal(err)
	}
	var archive bytes.Buffer
	w := tar.NewWriter(&archive)
	for _, dir := range []string{"proc", "dev", "sys", "etc"} {
		_ = w.WriteHeader(&tar.Header{Name: dir + "/", Mode: 0o755, Typeflag: tar.TypeDir})
	}
	_ = w.WriteHeader(&tar.Header{Name: "pod", Mode: 0o755, Size: int64(len(content)), Typeflag: tar.TypeReg})
	_, _ = w.Write(content)
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	l, err := tarball.LayerFromOpener(func() (io.ReadCloser, error) { return io.NopCloser(bytes.NewReader(archive.Bytes())), nil })
	if err != nil {
		t.Fatal(err)
	}
	digest, err := l.Digest()
	if err != nil {
		t.Fatal(err)
	}
	image, err := mutate.AppendLayers(empty.Image, l)
	if err != nil {
		t.Fatal(err)
	}
	if image, err = mutate.ConfigFile(image, &v1.ConfigFile{OS: "linux", Architecture: "amd64", RootFS: rootFS(t, image)}); err != nil {
		t.Fatal(err)
	}
	images := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	listener, err := net.Listen("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	serve(t, listener, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodGet && strings.HasSuffix(r.URL.Path, "/blobs/"+digest.String()) {
			t.Error("a layer is downloaded that is in the cache")
			http.Error(w, "not from here", http.StatusForbidden)
			return
		}
		images.ServeHTTP(w, r)
	}))
	reference, err := name.ParseReference(address+"/web:1", name.Insecure)
	if err != nil {
		t.Fatal(err)
	}
	if err := remote.Write(reference, image); err != nil {
		t.Fatal(err)
	}

	compressed, err := l.Compressed()
	if err != nil {
		t.Fatal(err)
	}
	defer compressed.Close()
	scratch := t.TempDir()
	system, err := os.Create(filepath.Join(scratch, "system"))
	if err != nil {
		t.Fatal(err)
	}
	defer system.Close()
	result, err := convert.Convert(t.Context(), system, compressed, scratch)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := system.Seek(0, io.SeekStart); err != nil {
		t.Fatal(err)
	}
	if err := os.MkdirAll(share, 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(share, "layer"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	granted := layer.Layer{Digest: result.Digest, DiffID: result.DiffID, Path: "layer", Key: layer.Key{1}}
	if granted.Root, granted.Size, err = layer.Write(file, system, granted.Key); err != nil {
		t.Fatal(err)
	}
	return granted
}
