package kip

import (
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strings"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

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

// longestCellName is what user data must have room for.
const longestCellName = 63

// userData makes what a cell's instance is launched with. It is a function of
// the Cell alone, so that a repeated launch is the same request. A
// configuration with which no cell could be launched is refused at once.
func userData(cfg *config.Config, o Options, ca *pki.Authorities) (func(*v1beta1.Cell) ([]byte, error), error) {
	var extra []*userdata.CloudInit
	if len(cfg.Cells.Software) > 0 {
		stock, err := userdata.StockImage(cfg.Cells.StockSoftware()...)
		if err != nil {
			return nil, fmt.Errorf("cells.software: %w", err)
		}
		extra = append(extra, stock)
	}
	if cfg.Cells.CloudInitFile != "" {
		file, err := cloudInit(cfg.Cells.CloudInitFile)
		if err != nil {
			return nil, fmt.Errorf("cells.cloudInitFile: %w", err)
		}
		extra = append(extra, file)
	}
	encode := encoder(cfg, o, ca, extra)
	_, err := encode(&v1beta1.Cell{ObjectMeta: metav1.ObjectMeta{Name: strings.Repeat("a", longestCellName)}})
	return encode, err
}

// cloudInit reads the file. It is read once: cells that are launched twice must
// have the same user data.
func cloudInit(file string) (*userdata.CloudInit, error) {
	content, err := os.ReadFile(file)
	if err != nil {
		return nil, err
	}
	extra, err := userdata.ParseCloudInit(content)
	if err != nil {
		return nil, fmt.Errorf("%s: %w", file, err)
	}
	return extra, nil
}

func encoder(cfg *config.Config, o Options, ca *pki.Authorities, extra []*userdata.CloudInit) func(*v1beta1.Cell) ([]byte, error) {
	var mirrors []userdata.Mirror
	for _, m := range cfg.Cells.RegistryMirrors {
		mirrors = append(mirrors, userdata.Mirror{Hosts: m.Hosts, Endpoint: m.Endpoint})
	}
	cache := ""
	if cfg.Cells.ImageCache != nil {
		cache = cfg.Cells.ImageCache.Endpoint
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
		// As it was launched, if it was; the intent to come says the same of today's.
		known := ca
		if launch := cell.Status.Launch; launch != nil {
			known = ca.Launched(launch.Authorities)
		}
		data, err := userdata.Encode(userdata.Document{
			Cell:           cell.Name,
			CACertificates: string(known.CertificatesPEM()),
			EnrolmentToken: known.Signer().EnrolmentToken(cell.UID),
			Node: userdata.Node{
				Name:               o.NodeName,
				ClusterDNS:         cfg.Kubelet.ClusterDNS,
				ClusterDomain:      cfg.Kubelet.ClusterDomain,
				MaxContainerLogMiB: maxContainerLogMiB,
			},
			RegistryMirrors: mirrors,
			SandboxImage:    cfg.Cells.SandboxImage,
			ImageCache:      cache,
			Routes:          routes,
			GPUs:            cell.Spec.Requirements.GPUs,

			PowerOffAfterSeconds: int32(cfg.Cells.PowerOffAfter.Seconds()),
		}, extra...)
		if file := cfg.Cells.CloudInitFile; errors.Is(err, userdata.ErrTooLarge) && file != "" {
			return nil, fmt.Errorf("with the %d bytes of cells.cloudInitFile %s: %w", extra[len(extra)-1].Size(), file, err)
		}
		return data, err
	}
}
