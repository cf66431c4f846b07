// Package servingcert keeps the certificate of Kip's kubelet API: the one that
// the API server checks before it passes logs and exec on.
//
// The cluster signs it (certificates.k8s.io) as it signs kubelets': by
// kubernetes.io/kubelet-serving, for which the request is made as the virtual
// node, and on EKS by beta.eks.amazonaws.com/app-serving, because EKS signs the
// former for EC2 instances only. A request must be approved. Kip does so itself
// where it has the right to, which as shipped is for EKS's signer; elsewhere a
// person or a policy does.
//
// Until there is a certificate, and should one expire, Kip serves with one that
// it signed itself, and says so: API servers that check kubelets refuse it. Key
// and certificate are in memory only; a restarted Kip asks anew, and the cluster
// removes old requests by itself.
package servingcert
