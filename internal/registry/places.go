package registry

import (
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/google/go-containerregistry/pkg/name"
)

// defaultMirror stands for every host that no mirror names.
const defaultMirror = "_default"

// DockerHub is what everybody but the library calls it.
const DockerHub = "docker.io"

// Mirror is a registry that is asked before those of Hosts; "_default" among
// them stands for every host that no mirror names.
type Mirror struct {
	Hosts    []string
	Endpoint string // http or https URL
}

// Places knows where each image is asked for.
type Places struct {
	mirrors map[string][]endpoint // by host
	// Anywhere is how mirrors are reached, which the configuration names, and
	// Outside how hosts are that images name.
	Anywhere, Outside http.RoundTripper
}

// Place is one where an image is asked for, under the name that it has there.
type Place struct {
	Reference name.Reference
	Via       http.RoundTripper
}

// NewPlaces makes Places with these mirrors.
func NewPlaces(mirrors []Mirror) (*Places, error) {
	byHost, err := endpointsByHost(mirrors)
	if err != nil {
		return nil, err
	}
	return &Places{mirrors: byHost, Anywhere: through(nil), Outside: through(RefuseInside)}, nil
}

// Of returns the places of an image, in the order in which they are asked. Of
// one that can be asked for only over plain http the registry is not among them.
func (p *Places) Of(ref name.Reference) []Place {
	host := Host(ref.Context())
	mirrors, ok := p.mirrors[host]
	if !ok {
		mirrors = p.mirrors[defaultMirror]
	}
	var places []Place
	for _, m := range mirrors {
		// A name that becomes too long below a mirror's path is not there.
		if at, err := m.reference(ref); err == nil {
			places = append(places, Place{at, p.Anywhere})
		}
	}
	if ref.Context().Scheme() == "https" {
		places = append(places, Place{ref, p.Outside})
	}
	return places
}

// Host is a repository's registry, as users write it.
func Host(repository name.Repository) string {
	if host := repository.RegistryStr(); host != name.DefaultRegistry {
		return host
	}
	return DockerHub
}

// Name is a repository's whole name, with its registry's host as users write it.
func Name(repository name.Repository) string {
	return Host(repository) + "/" + repository.RepositoryStr()
}

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

// connections are kept to each host while they are used.
const connections = 8

// through makes connections that control, if any, agrees to.
func through(control func(network, address string, c syscall.RawConn) error) http.RoundTripper {
	dialer := &net.Dialer{Timeout: 5 * time.Second, Control: control}
	return &http.Transport{
		Proxy:       http.ProxyFromEnvironment,
		DialContext: dialer.DialContext, ForceAttemptHTTP2: true,
		MaxIdleConnsPerHost: connections, IdleConnTimeout: time.Minute, TLSHandshakeTimeout: 5 * time.Second,
		ResponseHeaderTimeout: time.Minute,
	}
}

// RefuseInside is a dialer's control: it refuses addresses at which only this
// machine or its link listens.
func RefuseInside(_, address string, _ syscall.RawConn) error {
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

// maxAnswer is far above any manifest's or image configuration's size.
const maxAnswer = 8 << 20

// Bounded cuts answers off that are too long for a manifest or an image's
// configuration; no parser accepts the rest.
func Bounded(via http.RoundTripper) http.RoundTripper { return bounded{via} }

type bounded struct{ http.RoundTripper }

// RoundTrip implements http.RoundTripper.
func (b bounded) RoundTrip(req *http.Request) (*http.Response, error) {
	answer, err := b.RoundTripper.RoundTrip(req)
	if err == nil {
		answer.Body = http.MaxBytesReader(nil, answer.Body, maxAnswer)
	}
	return answer, err
}
