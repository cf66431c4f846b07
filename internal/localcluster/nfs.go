package localcluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"strconv"
	"text/template"
)

const (
	// ganesha is NFS-Ganesha, of Debian's packages nfs-ganesha and
	// nfs-ganesha-vfs: an NFS server that needs nothing of the kernel.
	ganesha = "/usr/bin/ganesha.nfsd"
	// ganeshaState is the directory of what it knows of its clients.
	ganeshaState = "ganesha"
	// nfsPort is where cells look.
	nfsPort = 2049
)

// hasNFS says whether the image cache's share is an export: the kernel of virtual
// machines has a client.
func (c *Cluster) hasNFS() bool {
	return c.ImageCache && c.Cells.Virtual()
}

// nfsServer exports the image cache's share to cells, on the machine's address in
// the VPC.
func (c *Cluster) nfsServer() process {
	address := net.JoinHostPort(c.settings.host().String(), strconv.Itoa(nfsPort))
	return process{
		Name: NFSServer, Path: ganesha,
		// Its own pid file must not be that of another server's.
		Args:  []string{"-F", "-L", "STDOUT", "-f", c.path("ganesha.conf"), "-p", c.path("ganesha.pid")},
		Watch: []string{c.path("ganesha.conf")},
		Ready: func(ctx context.Context) error {
			conn, err := new(net.Dialer).DialContext(ctx, "tcp", address)
			if err != nil {
				return err
			}
			return conn.Close()
		},
	}
}

// Graceless: nobody has a lock that he would want back from a server that was
// restarted.
var ganeshaConfig = template.Must(template.New("ganesha.conf").Parse(`NFS_CORE_PARAM {
	Bind_addr = {{.Host}};
	NFS_Port = {{.Port}};
	Protocols = 4;
	Enable_UDP = false;
	Enable_NLM = false;
	Enable_RQUOTA = false;
}
NFS_KRB5 { Active_krb5 = false; }
NFSV4 {
	Minor_Versions = 1, 2;
	Only_Numeric_Owners = true;
	Graceless = true;
	RecoveryBackend = fs;
	RecoveryRoot = {{.State}};
}
EXPORT {
	Export_Id = 1;
	Path = {{.Share}};
	Pseudo = /;
	Access_Type = RO;
	Squash = No_Root_Squash;
	SecType = sys;
	Protocols = 4;
	Transports = TCP;
	FSAL { Name = VFS; }
}
`))

func (c *Cluster) writeGaneshaConfig() error {
	if !c.hasNFS() {
		return nil
	}
	if _, err := os.Stat(ganesha); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s is not there, which serves the image cache to virtual machines: make deps-vm installs it", ganesha)
	}
	if err := os.MkdirAll(c.path(ganeshaState), 0o700); err != nil {
		return err
	}
	return writeTemplate(c.path("ganesha.conf"), ganeshaConfig, c.ganeshaSettings())
}

func (c *Cluster) ganeshaSettings() map[string]any {
	return map[string]any{"Host": c.settings.host(), "Port": nfsPort, "State": c.path(ganeshaState), "Share": c.shareDir()}
}

// startNFSServer has the server running if cells mount the share from it.
func (c *Cluster) startNFSServer(ctx context.Context) error {
	if !c.hasNFS() {
		return c.processes.stop(ctx, c.nfsServer())
	}
	return c.ensure(c.nfsServer)(ctx)
}
