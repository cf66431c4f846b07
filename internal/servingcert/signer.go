package servingcert

import (
	"fmt"
	"strings"

	certificatesv1 "k8s.io/api/certificates/v1"
)

// What --kubelet-serving-signer takes besides the name of a signer.
const (
	Auto       = "auto"
	SelfSigned = "self-signed"
)

// EKSSigner signs serving certificates of any subject on EKS, for a year at
// most, once the request is approved. It leaves requests alone whose name
// begins with "csr-".
const EKSSigner = "beta.eks.amazonaws.com/app-serving"

// Signer understands the flag, for a cluster whose API server has that version.
func Signer(flag, serverVersion string) (string, error) {
	switch {
	case flag == SelfSigned:
		return SelfSigned, nil
	case flag == Auto && strings.Contains(serverVersion, "-eks-"):
		return EKSSigner, nil
	case flag == Auto:
		return certificatesv1.KubeletServingSignerName, nil
	case strings.Contains(flag, "/"):
		return flag, nil
	}
	return "", fmt.Errorf("--kubelet-serving-signer is %q; it takes %s, %s or the name of a signer, such as %s",
		flag, Auto, SelfSigned, certificatesv1.KubeletServingSignerName)
}
