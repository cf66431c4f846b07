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

// authority reads Kip's certificate authority and makes it at the first start.
func authority(ctx context.Context, client kubernetes.Interface, namespace string) (*pki.Authority, error) {
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
	a, err := pki.Load(secret.Data[corev1.TLSCertKey], secret.Data[corev1.TLSPrivateKeyKey])
	if err != nil {
		return nil, fmt.Errorf("certificate authority in Secret %s/%s: %w", namespace, authoritySecret, err)
	}
	return a, nil
}

func newAuthority(namespace string) (*corev1.Secret, error) {
	a, err := pki.Create(time.Now())
	if err != nil {
		return nil, err
	}
	key, err := a.KeyPEM()
	if err != nil {
		return nil, err
	}
	return &corev1.Secret{
		ObjectMeta: metav1.ObjectMeta{Namespace: namespace, Name: authoritySecret},
		Type:       corev1.SecretTypeTLS,
		Data:       map[string][]byte{corev1.TLSCertKey: a.CertificatePEM(), corev1.TLSPrivateKeyKey: key},
	}, nil
}
