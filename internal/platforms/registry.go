package platforms

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"

	"github.com/elotl/kip/v2/internal/instancetype"
)

// defaultMirror stands for every host that no mirror names.
const defaultMirror = "_default"

// endpoint is a mirror: its host, how it is reached, and what comes before an
// image's path there.
type endpoint struct {
	host, prefix string
	plain        bool
}

// endpointsByHost sorts mirrors by the hosts they stand in for, as a cell's
// containerd does: a pattern becomes a mirror for every host.
func endpointsByHost(mirrors []Mirror) (map[string][]endpoint, error) {
	byHost := map[string][]endpoint{}
	for _, m := range mirrors {
		u, err := url.Parse(m.Endpoint)
		if err != nil || u.Host == "" {
			return nil, fmt.Errorf("registry mirror %q is not a URL", m.Endpoint)
		}
		e := endpoint{host: u.Host, plain: u.Scheme == "http"}
		if path := strings.Trim(u.Path, "/"); path != "" {
			// containerd takes the path as the whole of it, so it begins with
			// the API's version; another one is of no registry known here.
			var ok bool
			if e.prefix, ok = strings.CutPrefix(path+"/", "v2/"); !ok {
				continue
			}
		}
		for _, host := range m.Hosts {
			if strings.Contains(host, "*") {
				host = defaultMirror
			}
			if !slices.Contains(byHost[host], e) {
				byHost[host] = append(byHost[host], e)
			}
		}
	}
	return byHost, nil
}

// ask returns the architectures of an image, never none without an error.
func (r *Resolver) ask(ctx context.Context, image string) ([]string, error) {
	ref, err := name.ParseReference(image)
	if err != nil {
		return nil, err
	}
	host := ref.Context().RegistryStr()
	if host == name.DefaultRegistry {
		host = "docker.io"
	}
	mirrors, ok := r.mirrors[host]
	if !ok {
		mirrors = r.mirrors[defaultMirror]
	}
	var errs []error
	for _, m := range mirrors {
		at, err := m.reference(ref)
		if err == nil {
			var found []string
			if found, err = read(ctx, at, r.anywhere); err == nil {
				return found, nil
			}
		}
		errs = append(errs, err)
	}
	if ref.Context().Scheme() != "https" {
		return nil, errors.Join(append(errs, fmt.Errorf("%s is not asked over plain http", host))...)
	}
	found, err := read(ctx, ref, r.outside)
	if err != nil {
		return nil, errors.Join(append(errs, err)...)
	}
	return found, nil
}

// reference is the image at the mirror: the same path without the host.
func (e endpoint) reference(ref name.Reference) (name.Reference, error) {
	var opts []name.Option
	if e.plain {
		opts = append(opts, name.Insecure)
	}
	path := e.host + "/" + e.prefix + ref.Context().RepositoryStr()
	if digest, ok := ref.(name.Digest); ok {
		return name.NewDigest(path+"@"+digest.DigestStr(), opts...)
	}
	return name.NewTag(path+":"+ref.Identifier(), opts...)
}

// read asks one registry.
func read(ctx context.Context, ref name.Reference, via http.RoundTripper) ([]string, error) {
	got, err := remote.Get(ref, remote.WithContext(ctx), remote.WithTransport(via), remote.WithAuth(authn.Anonymous),
		remote.WithRetryBackoff(remote.Backoff{Steps: 1}), remote.WithUserAgent("kip"))
	if err != nil {
		return nil, err
	}
	var found []string
	add := func(os, architecture string) {
		if os == "linux" && (architecture == instancetype.AMD64 || architecture == instancetype.ARM64) && !slices.Contains(found, architecture) {
			found = append(found, architecture)
		}
	}
	switch {
	case got.MediaType.IsIndex():
		index, err := got.ImageIndex()
		if err != nil {
			return nil, err
		}
		manifest, err := index.IndexManifest()
		if err != nil {
			return nil, err
		}
		for _, m := range manifest.Manifests {
			if p := m.Platform; p != nil {
				add(p.OS, p.Architecture)
			}
		}
	case got.MediaType.IsImage():
		image, err := got.Image()
		if err != nil {
			return nil, err
		}
		var config *v1.ConfigFile
		if config, err = image.ConfigFile(); err != nil {
			return nil, err
		}
		add(config.OS, config.Architecture)
	}
	if len(found) == 0 {
		return nil, fmt.Errorf("%s (%s) names no architecture of cells", ref, got.MediaType)
	}
	slices.Sort(found)
	return found, nil
}

// maxAnswer is far above any manifest's or image configuration's size.
const maxAnswer = 8 << 20

// transport makes connections that control, if any, agrees to.
func transport(control func(network, address string, c syscall.RawConn) error) http.RoundTripper {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: control}
	return bounded{&http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: workers, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 5 * time.Second,
	}}
}

// bounded cuts answers off, which no parser accepts.
type bounded struct{ http.RoundTripper }

func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(req)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
	}
	return answer, err
}

// refuseInside refuses addresses at which only this machine or its link
// listens.
func refuseInside(_, address string, _ syscall.RawConn) error {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return err
	}
	ip := at.Addr().Unmap()
	if ip.IsLoopback() || ip.IsLinkLocalUnicast() || ip.IsUnspecified() || ip.IsMulticast() {
		return fmt.Errorf("%s is no address of a registry", ip)
	}
	return nil
}
