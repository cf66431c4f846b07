package tunnel

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"math/big"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/pki"
)

// Identity is what an agent must remember: its key and, once it enrolled, its
// certificate.
type Identity struct {
	Key *ecdsa.PrivateKey
	// CertificatePEM is empty before enrolment.
	CertificatePEM []byte
	// CACertificates (PEM) are those that Kip named last, empty if it named none.
	CACertificates []byte
}

// Store keeps an agent's Identity across restarts of its process, so that a
// restarted agent needs no second enrolment, which Kip would refuse.
type Store interface {
	// Load returns what Save was given last, and fs.ErrNotExist, wrapped,
	// before the first Save.
	Load() (Identity, error)
	// Save replaces what is kept. A crash leaves the old or the new.
	Save(Identity) error
}

// FileStore is a Store in one file, which only its owner may read. Its value is
// the file's path.
type FileStore string

var _ Store = FileStore("")

// Load implements Store.
func (f FileStore) Load() (Identity, error) {
	text, err := os.ReadFile(string(f))
	if err != nil {
		return Identity{}, fmt.Errorf("loading the agent's identity: %w", err)
	}
	key, err := pki.ParseKey(text)
	if err != nil {
		return Identity{}, fmt.Errorf("loading the agent's identity from %s: %w", f, err)
	}
	// After the key come, if they are there, the certificate and those of Kip's
	// authorities.
	_, rest := pem.Decode(text)
	id := Identity{Key: key}
	if block, others := pem.Decode(rest); block != nil {
		id.CertificatePEM, id.CACertificates = pem.EncodeToMemory(block), bytes.TrimSpace(others)
	}
	return id, nil
}

// Save implements Store.
func (f FileStore) Save(id Identity) error {
	keyPEM, err := pki.EncodeKey(id.Key)
	if err != nil {
		return fmt.Errorf("saving the agent's identity: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(string(f)), 0o700); err != nil {
		return fmt.Errorf("saving the agent's identity: %w", err)
	}
	if err := replaceFile(string(f), slices.Concat(keyPEM, id.CertificatePEM, id.CACertificates)); err != nil {
		return fmt.Errorf("saving the agent's identity: %w", err)
	}
	return nil
}

// replaceFile writes the file under another name first. os.CreateTemp makes it
// readable by its owner alone.
func replaceFile(path string, content []byte) (err error) {
	tmp, err := os.CreateTemp(filepath.Dir(path), filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			_ = tmp.Close()
			_ = os.Remove(tmp.Name())
		}
	}()
	if _, err := tmp.Write(content); err != nil {
		return err
	}
	if err := tmp.Sync(); err != nil {
		return err
	}
	if err := tmp.Close(); err != nil {
		return err
	}
	return os.Rename(tmp.Name(), path)
}

// loadOrCreate returns the identity that the store keeps, or a new one that it
// keeps from now on. The key is kept before it is shown to anybody: Kip writes
// the first key it sees down and takes no other.
func loadOrCreate(store Store) (Identity, error) {
	id, err := store.Load()
	if !errors.Is(err, fs.ErrNotExist) {
		return id, err
	}
	key, err := pki.NewKey()
	if err != nil {
		return Identity{}, err
	}
	id = Identity{Key: key}
	return id, store.Save(id)
}

// selfSigned wraps the key into a certificate that says nothing: TLS wants one
// before Kip signs the real one.
func selfSigned(key *ecdsa.PrivateKey, cell string) (*tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: cell},
		DNSNames:     []string{cell},
		// Whoever reads it must not care when it is valid; these never err.
		NotBefore:   time.Unix(0, 0),
		NotAfter:    time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC),
		KeyUsage:    x509.KeyUsageDigitalSignature,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, fmt.Errorf("making the certificate to enrol with: %w", err)
	}
	return &tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}
