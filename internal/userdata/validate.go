package userdata

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"strings"
)

// validate reports every field that the agent could not work with.
func (d *Document) validate() error {
	var errs []error
	if d.Cell == "" {
		errs = append(errs, errors.New("cell is missing"))
	}
	if d.EnrolmentToken == "" {
		errs = append(errs, errors.New("enrolmentToken is missing"))
	}
	if d.Node.Name == "" {
		errs = append(errs, errors.New("node.name is missing"))
	}
	if err := validateCertificates(d.CACertificates); err != nil {
		errs = append(errs, fmt.Errorf("caCertificates: %w", err))
	}
	for i, a := range d.Node.ClusterDNS {
		if _, err := netip.ParseAddr(a); err != nil {
			errs = append(errs, fmt.Errorf("node.clusterDNS[%d]: %q is not an IP address", i, a))
		}
	}
	for i, m := range d.RegistryMirrors {
		if err := m.validate(); err != nil {
			errs = append(errs, fmt.Errorf("registryMirrors[%d]: %w", i, err))
		}
	}
	if !validImageCache(d.ImageCache) {
		errs = append(errs, fmt.Errorf("imageCache: %q is neither an NFS export nor a directory", d.ImageCache))
	}
	for i, r := range d.Routes {
		if !r.IsValid() || !r.Addr().Is4() {
			errs = append(errs, fmt.Errorf("routes[%d]: %q is not an IPv4 network", i, r))
		}
	}
	if d.Node.MaxContainerLogMiB < 0 {
		errs = append(errs, errors.New("node.maxContainerLogMiB is negative"))
	}
	if d.GPUs < 0 {
		errs = append(errs, errors.New("gpus is negative"))
	}
	if d.PowerOffAfterSeconds < 0 {
		errs = append(errs, errors.New("powerOffAfterSeconds is negative"))
	}
	return errors.Join(errs...)
}

// validImageCache keeps what becomes an argument of a mount from being more than
// that.
func validImageCache(endpoint string) bool {
	if endpoint == "" {
		return true
	}
	server, path, remote := strings.Cut(endpoint, ":/")
	if !remote {
		server, path = "local", strings.TrimPrefix(endpoint, "/")
		if path == endpoint {
			return false
		}
	}
	return server != "" && !strings.ContainsAny(endpoint, ", \n") && !strings.Contains("/"+path+"/", "/../")
}

func (m *Mirror) validate() error {
	if len(m.Hosts) == 0 {
		return errors.New("hosts is empty")
	}
	for i, h := range m.Hosts {
		if h == "" {
			return fmt.Errorf("hosts[%d] is empty", i)
		}
	}
	u, err := url.Parse(m.Endpoint)
	if err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
		return fmt.Errorf("endpoint: %q is not an http or https URL", m.Endpoint)
	}
	return nil
}

// validateCertificates wants certificates and nothing else: a private key that
// slipped in here would be handed to every pod on the cell.
func validateCertificates(text string) error {
	rest := []byte(text)
	for n := 0; ; n++ {
		var block *pem.Block
		if block, rest = pem.Decode(rest); block == nil {
			if n == 0 {
				return errors.New("no PEM certificate in it")
			}
			return nil
		}
		if block.Type != "CERTIFICATE" {
			return fmt.Errorf("block %d is a %q, want only certificates", n, block.Type)
		}
		if _, err := x509.ParseCertificate(block.Bytes); err != nil {
			return fmt.Errorf("block %d: %w", n, err)
		}
	}
}
