package kip

import (
	"context"
	"fmt"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"

	"github.com/elotl/kip/v2/internal/pki"
)

// authoritySecret holds Kip's certificate authority in Kip's own namespace. It
// is the one Secret that Kip may read; losing it means that no running cell can
// be reached any more.
const authoritySecret = "kip-ca"

// The Secret's keys: of the authority that signs, and of a second one while it is
// being replaced, which will sign or did.
const (
	signerCert, signerKey     = corev1.TLSCertKey, corev1.TLSPrivateKeyKey
	nextCert, nextKey         = "next.crt", "next.key"
	previousCert, previousKey = "previous.crt", "previous.key"
)

// kept is an authority in the Secret, and what it does.
type kept struct {
	*pki.Authority
	does string
}

// authority reads Kip's certificate authorities and makes one at the first start.
func authority(ctx context.Context, client kubernetes.Interface, namespace string) (*pki.Authorities, error) {
	secrets := client.CoreV1().Secrets(namespace)
	secret, err := secrets.Get(ctx, authoritySecret, metav1.GetOptions{})
	if apierrors.IsNotFound(err) {
		secret, err = newAuthority(namespace)
		if err != nil {
			return nil, err
		}
		secret, err = secrets.Create(ctx, secret, metav1.CreateOptions{})
		if apierrors.IsAlreadyExists(err) {
			// Another Kip of this namespace was faster; there is one authority.
			secret, err = secrets.Get(ctx, authoritySecret, metav1.GetOptions{})
		}
	}
	if err != nil {
		return nil, fmt.Errorf("reading the certificate authority, Secret %s/%s: %w", namespace, authoritySecret, err)
	}
	return authoritiesIn(secret)
}

// authoritiesIn reads the Secret.
func authoritiesIn(secret *corev1.Secret) (*pki.Authorities, error) {
	all, err := keptIn(secret)
	if err != nil {
		return nil, err
	}
	var others []*pki.Authority
	for _, k := range all[1:] {
		others = append(others, k.Authority)
	}
	return pki.NewAuthorities(all[0].Authority, others...), nil
}

// keptIn reads what the Secret holds, the authority that signs first.
func keptIn(secret *corev1.Secret) ([]kept, error) {
	var all []kept
	for _, k := range []struct{ cert, key, does string }{
		{signerCert, signerKey, "signs"}, {nextCert, nextKey, "will sign"}, {previousCert, previousKey, "signed"},
	} {
		if k.cert != signerCert && len(secret.Data[k.cert]) == 0 {
			continue
		}
		a, err := pki.Load(secret.Data[k.cert], secret.Data[k.key])
		if err != nil {
			return nil, fmt.Errorf("certificate authority in Secret %s/%s, %s and %s: %w", secret.Namespace, secret.Name, k.cert, k.key, err)
		}
		all = append(all, kept{a, k.does})
	}
	return all, nil
}

func newAuthority(namespace string) (*corev1.Secret, error) {
	secret := &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: authoritySecret},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{},
	}
	return secret, addAuthority(secret, signerCert, signerKey)
}

// addAuthority makes a new authority under these keys.
func addAuthority(secret *corev1.Secret, cert, key string) error {
	a, err := pki.Create(time.Now())
	if err != nil {
		return err
	}
	keyPEM, err := a.KeyPEM()
	if err != nil {
		return err
	}
	secret.Data[cert], secret.Data[key] = a.CertificatePEM(), keyPEM
	return nil
}
