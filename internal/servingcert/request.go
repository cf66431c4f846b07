package servingcert

import (
	"context"
	"crypto/tls"
	"fmt"
	"time"

	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/rand"
	certificatesclient "k8s.io/client-go/kubernetes/typed/certificates/v1"
)

const (
	// firstLook and maxLook are how long after a request Kip looks for its
	// certificate, each time twice as long. A cluster that approves by itself
	// signs within a fraction of a second; a person takes hours.
	firstLook, maxLook = 100 * time.Millisecond, 30 * time.Second

	// patience is how long a first certificate may take before Kip complains.
	patience = 30 * time.Second
)

// requests leads to the API as whoever the signer wants to have asked: of the
// kubelets' signer that is the node itself.
func (m *Manager) requests() certificatesclient.CertificateSigningRequestInterface {
	if m.cfg.Signer == certificatesv1.KubeletServingSignerName {
		return m.cfg.Node.CertificatesV1().CertificateSigningRequests()
	}
	return m.cfg.Kip.CertificatesV1().CertificateSigningRequests()
}

// obtain asks for a certificate and waits for it, however long it takes: a
// request that waits for a person is not helped by a second one.
func (m *Manager) obtain(ctx context.Context) (*tls.Certificate, error) {
	pem, key, err := m.identity.request()
	if err != nil {
		return nil, err
	}
	request, err := m.requests().Create(ctx, &certificatesv1.CertificateSigningRequest{
		ObjectMeta: metav1.ObjectMeta{Name: "kip-serving-" + m.cfg.NodeName + "-" + rand.String(5)},
		Spec: certificatesv1.CertificateSigningRequestSpec{
			Request: pem, SignerName: m.cfg.Signer,
			Usages: []certificatesv1.KeyUsage{certificatesv1.UsageDigitalSignature, certificatesv1.UsageServerAuth},
		},
	}, metav1.CreateOptions{})
	if err != nil {
		return nil, fmt.Errorf("requesting a certificate of %s: %w", m.cfg.Signer, err)
	}
	m.cfg.Logger.InfoContext(ctx, "requested the kubelet API's certificate", "request", request.Name, "signer", m.cfg.Signer)
	began, mayApprove := m.cfg.Clock.Now(), true
	for look := firstLook; ; look = min(2*look, maxLook) {
		if certificate, err := conclusion(request); err != nil {
			return nil, err
		} else if certificate != nil {
			return m.identity.accept(certificate, key, m.cfg.Clock.Now())
		}
		if mayApprove && !approved(request) {
			mayApprove = m.approve(ctx, request)
		}
		m.checkExpiry(request.Name)
		if m.cfg.Clock.Since(began) >= patience {
			m.complain("request " + request.Name + " to " + m.cfg.Signer + " has no certificate yet; has it been approved?")
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.cfg.Clock.After(look):
		}
		fresh, err := m.requests().Get(ctx, request.Name, metav1.GetOptions{})
		switch {
		case apierrors.IsNotFound(err):
			return nil, fmt.Errorf("waiting for a certificate of %s: request %s was removed", m.cfg.Signer, request.Name)
		case err != nil:
			m.cfg.Logger.DebugContext(ctx, "looking for the kubelet API's certificate", "request", request.Name, "err", err)
		default:
			request = fresh
		}
	}
}

// approve approves Kip's own request and reports whether to try again: not
// where that is somebody else's right.
func (m *Manager) approve(ctx context.Context, request *certificatesv1.CertificateSigningRequest) bool {
	request = request.DeepCopy()
	request.Status.Conditions = append(request.Status.Conditions, certificatesv1.CertificateSigningRequestCondition{
		Type: certificatesv1.CertificateApproved, Status: corev1.ConditionTrue, Reason: "KipServingCertificate",
		Message: "Kip's own request for its kubelet API.",
	})
	_, err := m.cfg.Kip.CertificatesV1().CertificateSigningRequests().UpdateApproval(ctx, request.Name, request, metav1.UpdateOptions{})
	switch {
	case apierrors.IsForbidden(err):
		m.cfg.Logger.InfoContext(ctx, "the request waits for somebody's approval", "request", request.Name, "signer", request.Spec.SignerName)
		return false
	case err != nil: // somebody else was faster, or no answer: the next look shows it
		m.cfg.Logger.DebugContext(ctx, "approving the kubelet API's certificate", "request", request.Name, "err", err)
	}
	return true
}

func approved(request *certificatesv1.CertificateSigningRequest) bool {
	for _, c := range request.Status.Conditions {
		if c.Type == certificatesv1.CertificateApproved {
			return true
		}
	}
	return false
}

// conclusion is the certificate that a request led to, or the refusal.
func conclusion(request *certificatesv1.CertificateSigningRequest) ([]byte, error) {
	for _, c := range request.Status.Conditions {
		if c.Type == certificatesv1.CertificateDenied || c.Type == certificatesv1.CertificateFailed {
			return nil, fmt.Errorf("request %s to %s: %s: %s: %s", request.Name, request.Spec.SignerName, c.Type, c.Reason, c.Message)
		}
	}
	if len(request.Status.Certificate) == 0 {
		return nil, nil
	}
	return request.Status.Certificate, nil
}
