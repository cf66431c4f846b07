package e2e

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/rest"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// TestKubeletAPICertificate looks at Kip's kubelet API as an API server does
// that checks kubelets: by the cluster's authority, at the address that the
// Node names. The certificate is the cluster's, signed by the
// kube-controller-manager on a request of the virtual node's.
func TestKubeletAPICertificate(t *testing.T) {
	s := newSpace(t)
	roots := clusterAuthority(t)
	node, err := shared.kube.CoreV1().Nodes().Get(t.Context(), localcluster.NodeName, metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	var host string
	for _, a := range node.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			host = a.Address
		}
	}
	address := net.JoinHostPort(host, fmt.Sprint(node.Status.DaemonEndpoints.KubeletEndpoint.Port))
	var serial string
	checked := func(ctx context.Context) error {
		dialer := tls.Dialer{Config: &tls.Config{RootCAs: roots}}
		conn, err := dialer.DialContext(ctx, "tcp", address)
		if err != nil {
			return err
		}
		defer conn.Close()
		leaf := conn.(*tls.Conn).ConnectionState().PeerCertificates[0]
		if leaf.SerialNumber.String() == serial {
			return errors.New("it is the certificate from before the restart")
		}
		if leaf.Subject.CommonName != "system:node:"+localcluster.NodeName {
			return fmt.Errorf("the certificate is %s's", leaf.Subject)
		}
		serial = leaf.SerialNumber.String()
		return nil
	}
	s.eventually("the kubelet API has a certificate of the cluster's", checked)

	// The key dies with Kip; the next one asks anew, and nobody has to help.
	s.killAndStart(localcluster.Kip)
	took := s.within(time.Minute, "a restarted Kip has one too", checked)
	t.Logf("a certificate of the cluster's %s after Kip's restart", took.Round(time.Millisecond))
}

// clusterAuthority is the authority that signed the API server's certificate,
// and signs kubelets'.
func clusterAuthority(t *testing.T) *x509.CertPool {
	t.Helper()
	config := rest.CopyConfig(shared.config)
	pem := config.CAData
	if len(pem) == 0 {
		var err error
		if pem, err = os.ReadFile(config.CAFile); err != nil {
			t.Fatal(err)
		}
	}
	roots := x509.NewCertPool()
	if !roots.AppendCertsFromPEM(pem) {
		t.Fatal("the cluster's authority is no certificate")
	}
	return roots
}
