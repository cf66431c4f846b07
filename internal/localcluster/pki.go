package localcluster

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/tools/clientcmd"
	clientcmdapi "k8s.io/client-go/tools/clientcmd/api"
)

// certificates are the cluster's keys, made once and kept in its directory.
type certificates struct{ dir string }

func (c certificates) path(file string) string { return filepath.Join(c.dir, file) }

// subject says whose certificate it is and what for.
type subject struct {
	name   string // of the files
	cn     string
	groups []string
	server bool
	dns    []string
	ips    []net.IP
}

// make writes every key and certificate that is missing.
func (c certificates) make(s settings) error {
	if err := os.MkdirAll(c.dir, 0o700); err != nil {
		return err
	}
	host := net.IP(s.host().AsSlice())
	local := net.IPv4(127, 0, 0, 1)
	_, node, _, _ := s.nodeAddresses()
	subjects := map[string][]subject{
		"ca": {
			{name: "apiserver", cn: "kube-apiserver", server: true, ips: []net.IP{host, local, net.ParseIP(serviceIP)},
				dns: []string{"localhost", "kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"}},
			{name: "apiserver-kubelet-client", cn: "kube-apiserver-kubelet-client", groups: []string{"system:masters"}},
			{name: "admin", cn: "kubernetes-admin", groups: []string{"system:masters"}},
			{name: "controller-manager", cn: "system:kube-controller-manager"},
			{name: "scheduler", cn: "system:kube-scheduler"},
			{name: "coredns", cn: "system:coredns"},
			{name: MetricsServer, cn: "system:metrics-server"},
			{name: MetricsServer + "-serving", cn: MetricsServer, server: true, ips: []net.IP{host}, dns: []string{"metrics-server.kube-system.svc"}},
			{name: OrdinaryNode, cn: "system:node:" + OrdinaryNode, groups: []string{"system:nodes"}},
			{name: OrdinaryNode + "-serving", cn: "system:node:" + OrdinaryNode, groups: []string{"system:nodes"}, server: true,
				ips: []net.IP{node.AsSlice()}, dns: []string{OrdinaryNode}},
			{name: "kube-proxy", cn: "system:kube-proxy"},
		},
		"front-proxy-ca": {{name: "front-proxy-client", cn: "front-proxy-client"}},
	}
	for _, ca := range []string{"ca", "front-proxy-ca"} {
		cert, key, err := c.authority(ca)
		if err != nil {
			return fmt.Errorf("making %s: %w", ca, err)
		}
		for _, sub := range subjects[ca] {
			if err := c.issue(cert, key, sub); err != nil {
				return fmt.Errorf("making the certificate of %s: %w", sub.name, err)
			}
		}
	}
	if _, err := os.Stat(c.path("service-accounts.key")); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	der, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return err
	}
	if err := writePEM(c.path("service-accounts.pub"), "PUBLIC KEY", der); err != nil {
		return err
	}
	return writeKey(c.path("service-accounts.key"), key)
}

func (c certificates) authority(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	if cert, key, err := c.load(name); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return cert, key, err
	}
	template := &x509.Certificate{
		Subject:               pkix.Name{CommonName: "local-" + name},
		IsCA:                  true,
		BasicConstraintsValid: true,
		KeyUsage:              x509.KeyUsageCertSign | x509.KeyUsageDigitalSignature,
	}
	if err := c.sign(name, template, nil, nil); err != nil {
		return nil, nil, err
	}
	return c.load(name)
}

func (c certificates) issue(ca *x509.Certificate, caKey *ecdsa.PrivateKey, s subject) error {
	if _, err := os.Stat(c.path(s.name + ".crt")); err == nil {
		return nil
	}
	usage := x509.ExtKeyUsageClientAuth
	if s.server {
		usage = x509.ExtKeyUsageServerAuth
	}
	return c.sign(s.name, &x509.Certificate{
		Subject:     pkix.Name{CommonName: s.cn, Organization: s.groups},
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{usage},
		DNSNames:    s.dns,
		IPAddresses: s.ips,
	}, ca, caKey)
}

// sign makes a key and a certificate for it, signed by parent or by itself. The
// certificate is written last: where it is, the key is.
func (c certificates) sign(name string, template, parent *x509.Certificate, parentKey *ecdsa.PrivateKey) error {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	if parent == nil {
		parent, parentKey = template, key
	}
	if template.SerialNumber, err = rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120)); err != nil {
		return err
	}
	template.NotBefore = time.Now().Add(-time.Minute)
	template.NotAfter = time.Now().AddDate(1, 0, 0)
	der, err := x509.CreateCertificate(rand.Reader, template, parent, key.Public(), parentKey)
	if err != nil {
		return err
	}
	if err := writeKey(c.path(name+".key"), key); err != nil {
		return err
	}
	return writePEM(c.path(name+".crt"), "CERTIFICATE", der)
}

func (c certificates) load(name string) (*x509.Certificate, *ecdsa.PrivateKey, error) {
	certPEM, err := os.ReadFile(c.path(name + ".crt"))
	if err != nil {
		return nil, nil, err
	}
	keyPEM, err := os.ReadFile(c.path(name + ".key"))
	if err != nil {
		return nil, nil, err
	}
	certBlock, _ := pem.Decode(certPEM)
	keyBlock, _ := pem.Decode(keyPEM)
	if certBlock == nil || keyBlock == nil {
		return nil, nil, fmt.Errorf("%s.crt or %s.key in %s is not PEM: delete both, they are made again", name, name, c.dir)
	}
	cert, err := x509.ParseCertificate(certBlock.Bytes)
	if err != nil {
		return nil, nil, err
	}
	key, err := x509.ParseECPrivateKey(keyBlock.Bytes)
	return cert, key, err
}

func writeKey(path string, key *ecdsa.PrivateKey) error {
	der, err := x509.MarshalECPrivateKey(key)
	if err != nil {
		return err
	}
	return writePEM(path, "EC PRIVATE KEY", der)
}

func writePEM(path, kind string, der []byte) error {
	return writeFile(path, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: der}), 0o600)
}

// kubeconfig writes a kubeconfig for one of the subjects, or with a token file.
func (c certificates) kubeconfig(path, server, user, tokenFile string) error {
	ca, err := os.ReadFile(c.path("ca.crt"))
	if err != nil {
		return err
	}
	auth := &clientcmdapi.AuthInfo{TokenFile: tokenFile}
	if tokenFile == "" {
		if auth.ClientCertificateData, err = os.ReadFile(c.path(user + ".crt")); err != nil {
			return err
		}
		if auth.ClientKeyData, err = os.ReadFile(c.path(user + ".key")); err != nil {
			return err
		}
	}
	config := clientcmdapi.NewConfig()
	config.Clusters["kip"] = &clientcmdapi.Cluster{Server: server, CertificateAuthorityData: ca}
	config.AuthInfos[user] = auth
	config.Contexts["kip"] = &clientcmdapi.Context{Cluster: "kip", AuthInfo: user}
	config.CurrentContext = "kip"
	data, err := clientcmd.Write(*config)
	if err != nil {
		return err
	}
	return writeFile(path, data, 0o600)
}
