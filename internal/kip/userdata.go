package kip

import (
	"fmt"
	"net/netip"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/pki"
	"github.com/elotl/kip/v2/internal/userdata"
)

// maxContainerLogMiB is the size at which a cell's kubelet rotates a
// container's log. Kip keeps up to 10 MiB of text of every container of an
// ended pod; the file in the cell is larger than its text by about 45 bytes a
// line, and a kubelet shows no rotated files.
const maxContainerLogMiB = 100

// userData makes what a cell's instance is launched with. It is a function of
// the Cell alone, so that a repeated launch is the same request.
func userData(cfg *config.Config, o Options, ca *pki.Authority) func(*v1beta1.Cell) ([]byte, error) {
	var mirrors []userdata.Mirror
	for _, m := range cfg.Cells.RegistryMirrors {
		mirrors = append(mirrors, userdata.Mirror{Hosts: m.Hosts, Endpoint: m.Endpoint})
	}
	return func(cell *v1beta1.Cell) ([]byte, error) {
		var routes []netip.Prefix
		for _, r := range cell.Spec.Instance.Routes {
			network, err := netip.ParsePrefix(r)
			if err != nil {
				return nil, fmt.Errorf("spec.instance.routes: %w", err)
			}
			routes = append(routes, network)
		}
		return userdata.Encode(userdata.Document{
			Cell:           cell.Name,
			CACertificates: string(ca.CertificatePEM()),
			EnrolmentToken: ca.EnrolmentToken(cell.UID),
			Node: userdata.Node{
				Name:               o.NodeName,
				ClusterDNS:         cfg.Kubelet.ClusterDNS,
				ClusterDomain:      cfg.Kubelet.ClusterDomain,
				MaxContainerLogMiB: maxContainerLogMiB,
			},
			RegistryMirrors: mirrors,
			SandboxImage:    cfg.Cells.SandboxImage,
			Routes:          routes,
		})
	}
}
