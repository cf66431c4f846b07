package conformance

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"regexp"
	"strings"

	v1 "github.com/google/go-containerregistry/pkg/v1"

	"github.com/elotl/kip/v2/internal/ociimage"
)

// Images makes the images that the specs name, of what was built here and of
// Debian's programs. root is Kip's source tree, dir gets files that the images
// are read from while they are used, names are all that the tests may name.
func Images(ctx context.Context, root, dir string, names []string) (map[string]v1.Image, error) {
	m := maker{ctx: ctx, root: root, dir: dir}
	specs, err := m.specs()
	if err != nil {
		return nil, fmt.Errorf("making the tests' images: %w", err)
	}
	images := map[string]v1.Image{}
	for _, name := range names {
		spec, ok := specs[repository(name)]
		if !ok {
			continue // of tests that do not run here
		}
		spec.Uncompressed = true
		if images[name], err = ociimage.Build(spec); err != nil {
			return nil, fmt.Errorf("making %s: %w", name, err)
		}
	}
	return images, nil
}

// repository is an image's name without its version.
func repository(name string) string {
	if i := strings.LastIndex(name, ":"); i > strings.LastIndex(name, "/") {
		return name[:i]
	}
	return name
}

// ImageNames returns the images that the program's tests may name.
func (s Suite) ImageNames(ctx context.Context) ([]string, error) {
	out, err := exec.CommandContext(ctx, s.Program, "--list-images").Output()
	if err != nil {
		return nil, fmt.Errorf("asking %s for its images: %w", s.Program, err)
	}
	return strings.Fields(string(out)), nil
}

// maker makes images, and the files they are made of.
type maker struct {
	ctx       context.Context
	root, dir string
}

// specs are the images by repository.
func (m maker) specs() (map[string]ociimage.Spec, error) {
	shell, err := m.shell()
	if err != nil {
		return nil, err
	}
	agnhost, err := m.agnhost(shell)
	if err != nil {
		return nil, err
	}
	glibc, err := m.glibc(shell)
	if err != nil {
		return nil, err
	}
	kitten, err := m.kitten(agnhost)
	if err != nil {
		return nil, err
	}
	nonroot := shell
	nonroot.User = "1234"
	privileges := extend(shell, map[string]string{"/usr/local/bin/nnp": m.tool("agnhost")})
	privileges.SetUserID = []string{"/usr/local/bin/nnp"}
	privileges.Cmd = []string{"/usr/local/bin/nnp", "nonewprivs"}
	const registry = "registry.k8s.io/e2e-test-images/"
	return map[string]ociimage.Spec{
		registry + "agnhost":           agnhost,
		registry + "busybox":           shell,
		registry + "glibc-dns-testing": glibc,
		registry + "kitten":            kitten,
		// No spec asks it for a page; one changes a container's image to it.
		registry + "nginx":      shell,
		registry + "nonroot":    nonroot,
		registry + "nonewprivs": privileges,
		"registry.k8s.io/pause": {Files: map[string]string{"/pause": filepath.Join(m.root, "bin", "pause")}, Entrypoint: []string{"/pause"}},
	}, nil
}

func (m maker) tool(name string) string { return filepath.Join(m.root, ".cache", "tools", "bin", name) }

// extend adds files to an image.
func extend(spec ociimage.Spec, files map[string]string) ociimage.Spec {
	all := map[string]string{}
	for _, some := range []map[string]string{spec.Files, files} {
		for path, source := range some {
			all[path] = source
		}
	}
	spec.Files = all
	return spec
}

// shell is busybox. The shell that PATH leads to is bash: Debian's busybox drops
// environment variables whose names are no identifiers, which ConfigMaps may
// have. /bin/sh is busybox's, whose words specs know.
func (m maker) shell() (ociimage.Spec, error) {
	busybox, err := m.fetch("busybox-static", "bin/busybox")
	if err != nil {
		return ociimage.Spec{}, err
	}
	bash, err := m.fetch("bash-static", "bin/bash-static")
	if err != nil {
		return ociimage.Spec{}, err
	}
	applets, err := exec.CommandContext(m.ctx, busybox, "--list-full").Output()
	if err != nil {
		return ociimage.Spec{}, fmt.Errorf("asking busybox for its applets: %w", err)
	}
	links := map[string]string{}
	for applet := range strings.FieldsSeq(string(applets)) {
		links["/"+applet] = "/bin/busybox"
		links["/bin/"+path.Base(applet)] = "/bin/busybox" // where upstream's image has them all
	}
	delete(links, "/bin/busybox")
	delete(links, "/linuxrc")
	links["/usr/bin/sh"] = "/bin/bash"
	files := map[string]string{"/bin/busybox": busybox, "/bin/bash": bash}
	for path, content := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n",
		"/etc/group":  "root:x:0:\nnogroup:x:65534:\n",
	} {
		if files[path], err = m.write("shell"+path, []byte(content)); err != nil {
			return ociimage.Spec{}, err
		}
	}
	return ociimage.Spec{Files: files, Links: links, Cmd: []string{"sh"}}, nil
}

// agnhost is as test/images/agnhost in Kubernetes' repository describes it,
// without what only tests of other parts of a cluster use.
func (m maker) agnhost(shell ociimage.Spec) (ociimage.Spec, error) {
	source, err := m.kubernetes()
	if err != nil {
		return ociimage.Spec{}, err
	}
	files := map[string]string{
		"/agnhost":       m.tool("agnhost"),
		"/localhost.crt": filepath.Join(source, "test/images/agnhost/porter/localhost.crt"),
		"/localhost.key": filepath.Join(source, "test/images/agnhost/porter/localhost.key"),
	}
	for _, program := range []string{"curl", "nc.openbsd", "ss"} {
		if err := m.program(files, program); err != nil {
			return ociimage.Spec{}, err
		}
	}
	for path, content := range map[string]string{
		"/etc/passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n" +
			"user-defined-in-image:x:1000:1000::/home:/bin/sh\n",
		"/etc/group": "root:x:0:\nnogroup:x:65534:\nuser-defined-in-image:x:1000:\ngroup-defined-in-image:x:50000:user-defined-in-image\n",
	} {
		if files[path], err = m.write("agnhost"+path, []byte(content)); err != nil {
			return ociimage.Spec{}, err
		}
	}
	if err := m.served(files); err != nil {
		return ociimage.Spec{}, err
	}
	spec := extend(shell, files)
	links := map[string]string{"/agnhost-2": "/agnhost"}
	for path, target := range shell.Links {
		if _, taken := files[path]; !taken {
			links[path] = target
		}
	}
	// Debian's busybox as a shell prefers itself to what is in PATH.
	links["/bin/sh"] = "/bin/bash"
	links["/usr/bin/nc"] = "/usr/bin/nc.openbsd"
	spec.Links = links
	spec.Entrypoint, spec.Cmd = []string{"/agnhost"}, []string{"pause"}
	return spec, nil
}

// glibc has a program that asks glibc for names, which busybox does in its own way.
func (m maker) glibc(shell ociimage.Spec) (ociimage.Spec, error) {
	files := map[string]string{}
	if err := m.program(files, "hostname"); err != nil {
		return ociimage.Spec{}, err
	}
	var err error
	files["/etc/nsswitch.conf"], err = m.write("glibc/etc/nsswitch.conf", []byte("hosts: files dns\n"))
	return extend(shell, files), err
}

// kitten is agnhost with files of its own. A spec that mounts it looks for one of
// them, and, deeper down, for one that it knows by the distribution's name.
func (m maker) kitten(agnhost ociimage.Spec) (ociimage.Spec, error) {
	source, err := m.kubernetes()
	if err != nil {
		return ociimage.Spec{}, err
	}
	release, err := m.write("kitten/etc/os-release", []byte("NAME=\"Alpine Linux\"\nID=alpine\n"))
	html := filepath.Join(source, "test/images/kitten/html")
	spec := extend(agnhost, map[string]string{
		"/kitten.jpg": filepath.Join(html, "kitten.jpg"), "/data.json": filepath.Join(html, "data.json"), "/etc/os-release": release,
	})
	spec.Cmd = []string{"test-webserver"}
	return spec, err
}

// served adds the image that agnhost's own registry serves, in that registry's
// layout: the pause image, as pause:testing.
func (m maker) served(files map[string]string) error {
	pause, err := ociimage.Build(ociimage.Spec{
		Files: map[string]string{"/pause": filepath.Join(m.root, "bin", "pause")}, Entrypoint: []string{"/pause"},
	})
	if err != nil {
		return err
	}
	const top = "/var/registry/pause"
	add := func(path string, content []byte) (err error) {
		files[top+path], err = m.write("served"+path, content)
		return err
	}
	at := func(kind string, digest v1.Hash) string {
		return "/" + kind + "/" + digest.Algorithm + "/" + digest.Hex[:2] + "/" + digest.Hex + "/data"
	}
	digest, err := pause.Digest()
	if err != nil {
		return err
	}
	manifest, err := pause.RawManifest()
	if err != nil {
		return err
	}
	config, err := pause.RawConfigFile()
	if err != nil {
		return err
	}
	parsed, err := pause.Manifest()
	if err != nil {
		return err
	}
	for path, content := range map[string][]byte{
		"/manifests/testing":              []byte(digest.String()),
		at("manifests", digest):           manifest,
		at("blobs", parsed.Config.Digest): config,
	} {
		if err := add(path, content); err != nil {
			return err
		}
	}
	layers, err := pause.Layers()
	if err != nil {
		return err
	}
	for _, layer := range layers {
		digest, err := layer.Digest()
		if err != nil {
			return err
		}
		content, err := layer.Compressed()
		if err != nil {
			return err
		}
		var b bytes.Buffer
		_, err = b.ReadFrom(content)
		content.Close()
		if err != nil {
			return err
		}
		if err := add(at("blobs", digest), b.Bytes()); err != nil {
			return err
		}
	}
	return nil
}

// write makes a file for an image and returns its path.
func (m maker) write(name string, content []byte) (string, error) {
	path := filepath.Join(m.dir, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	return path, os.WriteFile(path, content, 0o644)
}

// kubernetes is the folder of Kubernetes' module, with the files that belong to images.
func (m maker) kubernetes() (string, error) {
	cmd := exec.CommandContext(m.ctx, "go", "list", "-m", "-f", "{{.Dir}}", "k8s.io/kubernetes")
	cmd.Dir = filepath.Join(m.root, "tools", "kubernetes-tests")
	cmd.Env = append(os.Environ(), "GOFLAGS=-mod=readonly", "GOWORK=off")
	out, err := cmd.Output()
	if err != nil {
		return "", fmt.Errorf("looking for the source of Kubernetes: %w", err)
	}
	return strings.TrimSpace(string(out)), nil
}

// fetch returns a file of a Debian package, which is not installed.
func (m maker) fetch(pkg, file string) (string, error) {
	dir := filepath.Join(m.dir, pkg)
	path := filepath.Join(dir, file)
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return "", err
	}
	cmd := exec.CommandContext(m.ctx, "sh", "-ec", "apt-get -q download "+pkg+" && dpkg -x "+pkg+"_*.deb .")
	cmd.Dir = dir
	if out, err := cmd.CombinedOutput(); err != nil {
		return "", fmt.Errorf("fetching Debian's %s: %w\n%s", pkg, err, lastLines(out, 10))
	}
	return path, nil
}

// library is a line of ldd's output: the path of one file.
var library = regexp.MustCompile(`(/\S+) \(0x`)

// program adds a program of this machine to files, and the libraries that it is linked with.
func (m maker) program(files map[string]string, name string) error {
	path, err := exec.LookPath(name)
	if err != nil {
		return fmt.Errorf("looking for %s, which tests run in their pods: %w", name, err)
	}
	out, err := exec.CommandContext(m.ctx, "ldd", path).Output()
	if err != nil {
		return fmt.Errorf("looking for the libraries of %s: %w", path, err)
	}
	files["/usr/bin/"+name] = path
	lines := bufio.NewScanner(bytes.NewReader(out))
	for lines.Scan() {
		if found := library.FindStringSubmatch(lines.Text()); found != nil {
			files[found[1]] = found[1]
		}
	}
	return lines.Err()
}
