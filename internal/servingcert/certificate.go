package servingcert

import (
	"bytes"
	"crypto"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"net"
	"time"

	"github.com/elotl/kip/v2/internal/pki"
)

// identity is what the certificate says.
type identity struct {
	nodeName string
	ip       net.IP
}

// subject is that of a kubelet. The signer of kubelets' certificates takes no
// other, and EKS's takes any.
func (i identity) subject() pkix.Name {
	return pkix.Name{CommonName: "system:node:" + i.nodeName, Organization: []string{"system:nodes"}}
}

// selfSigned makes a certificate that nobody can check, good for a year.
func (i identity) selfSigned(now time.Time) (*tls.Certificate, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, err
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return nil, fmt.Errorf("making a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial,
		Subject:      i.subject(),
		NotBefore:    now.Add(-5 * time.Minute),
		NotAfter:     now.AddDate(1, 0, 0),
		KeyUsage:     x509.KeyUsageDigitalSignature,
		ExtKeyUsage:  []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
		DNSNames:     []string{i.nodeName},
		IPAddresses:  []net.IP{i.ip},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("signing the kubelet API's certificate: %w", err)
	}
	leaf, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, fmt.Errorf("signing the kubelet API's certificate: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key, Leaf: leaf}, nil
}

// request makes what a signer is sent (PEM), with a new key.
func (i identity) request() ([]byte, *ecdsa.PrivateKey, error) {
	key, err := pki.NewKey()
	if err != nil {
		return nil, nil, err
	}
	der, err := x509.CreateCertificateRequest(rand.Reader, &x509.CertificateRequest{
		Subject: i.subject(), DNSNames: []string{i.nodeName}, IPAddresses: []net.IP{i.ip},
	}, key)
	if err != nil {
		return nil, nil, fmt.Errorf("making a certificate request: %w", err)
	}
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE REQUEST", Bytes: der}), key, nil
}

// accept reads what a signer returned (PEM) and makes sure that it is of use.
func (i identity) accept(chain []byte, key crypto.Signer, now time.Time) (*tls.Certificate, error) {
	certificate := &tls.Certificate{PrivateKey: key}
	for block, rest := pem.Decode(chain); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certificate.Certificate = append(certificate.Certificate, block.Bytes)
		}
	}
	if len(certificate.Certificate) == 0 {
		return nil, errors.New("the signer returned no certificate")
	}
	leaf, err := x509.ParseCertificate(certificate.Certificate[0])
	if err != nil {
		return nil, fmt.Errorf("reading the signed certificate: %w", err)
	}
	public, err := x509.MarshalPKIXPublicKey(key.Public())
	if err != nil {
		return nil, fmt.Errorf("reading the signed certificate: %w", err)
	}
	switch {
	case !bytes.Equal(public, leaf.RawSubjectPublicKeyInfo):
		return nil, errors.New("the signed certificate is for another key")
	case now.After(leaf.NotAfter):
		return nil, errors.New("the signed certificate has expired")
	}
	if err := leaf.VerifyHostname(i.ip.String()); err != nil {
		return nil, fmt.Errorf("the signed certificate is of no use: %w", err)
	}
	certificate.Leaf = leaf
	return certificate, nil
}
