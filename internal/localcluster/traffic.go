package localcluster

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// Received is what an instance's interface has got since it was launched, in
// bytes: what the other end of the wire sent, in the VPC's namespace.
func (c *Cluster) Received(instance string) (bytes int64, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("reading what instance %s received: %w", instance, err)
		}
	}()
	spec, err := c.machineSpec(instance)
	if err != nil {
		return 0, err
	}
	vpc, err := netns.GetFromName(vpcnet.Config{Cluster: c.settings.Name}.NamespaceName())
	if err != nil {
		return 0, err
	}
	defer vpc.Close()
	network, err := netlink.NewHandleAt(vpc)
	if err != nil {
		return 0, err
	}
	defer network.Close()
	link, err := network.LinkByName(spec.NIC.Device)
	if err != nil {
		return 0, err
	}
	return int64(link.Attrs().Statistics.TxBytes), nil
}

// machineSpec is what ec2local made an instance of, a sandbox or a computer.
func (c *Cluster) machineSpec(instance string) (spec machine.Spec, err error) {
	for _, kind := range []string{"machines", "vms"} {
		data, err := os.ReadFile(c.path(filepath.Join("ec2", kind, instance, "spec.json")))
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return spec, err
		}
		return spec, json.Unmarshal(data, &spec)
	}
	return spec, errors.New("it has no machine")
}
