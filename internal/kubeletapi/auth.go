package kubeletapi

import (
	"context"
	"fmt"
	"net/http"
	"strings"

	"github.com/virtual-kubelet/virtual-kubelet/node/nodeutil"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"
	"k8s.io/apiserver/pkg/server/dynamiccertificates"
	"k8s.io/client-go/kubernetes"
)

// The ConfigMap in which every API server publishes the CA of its client
// certificates.
const (
	clientCANamespace = "kube-system"
	clientCAConfigMap = "extension-apiserver-authentication"
	clientCAKey       = "client-ca-file"
)

// ClusterAuth authenticates and authorizes as a kubelet does: client
// certificates by the cluster's CA, tokens by TokenReview, rights by
// SubjectAccessReview. The second result keeps the CA current and must be run
// by the caller until it no longer needs the first.
func ClusterAuth(client kubernetes.Interface, nodeName string) (nodeutil.Auth, func(context.Context), error) {
	ca, err := dynamiccertificates.NewDynamicCAFromConfigMapController("client-ca", clientCANamespace, clientCAConfigMap, clientCAKey, client)
	if err != nil {
		return nil, nil, fmt.Errorf("watching the cluster's client CA: %w", err)
	}
	auth, err := nodeutil.WebhookAuth(client, nodeName, func(cfg *nodeutil.WebhookAuthConfig) error {
		cfg.AuthnConfig.Anonymous = nil
		cfg.AuthnConfig.ClientCertificateCAContentProvider = ca
		return nil
	})
	if err != nil {
		return nil, nil, fmt.Errorf("making the kubelet API's authentication: %w", err)
	}
	return kubeletAuth{auth}, func(ctx context.Context) { ca.Run(ctx, 1) }, nil
}

// kubeletAuth asks for the rights that a kubelet asks for, but in one case for
// more: for everything that runs something in a container, the right to create
// nodes/proxy. By the request's method alone, the right to get nodes/proxy
// would do for exec, since WebSockets begin with a GET.
type kubeletAuth struct{ nodeutil.Auth }

func (a kubeletAuth) GetRequestAttributes(u user.Info, r *http.Request) authorizer.Attributes {
	attributes := a.Auth.GetRequestAttributes(u, r)
	record, ok := attributes.(authorizer.AttributesRecord)
	if !ok {
		return attributes
	}
	switch first, _, _ := strings.Cut(strings.TrimPrefix(r.URL.Path, "/"), "/"); first {
	case "exec", "attach", "portForward", "run":
		record.Verb = "create"
	}
	return record
}

// Authorize lets those list the node's pods who may get nodes/pods, besides
// those who may get nodes/proxy.
func (a kubeletAuth) Authorize(ctx context.Context, attributes authorizer.Attributes) (authorizer.Decision, string, error) {
	if record, ok := attributes.(authorizer.AttributesRecord); ok && strings.TrimSuffix(record.Path, "/") == "/pods" {
		record.Subresource = "pods"
		if decision, reason, err := a.Auth.Authorize(ctx, record); err == nil && decision == authorizer.DecisionAllow {
			return decision, reason, nil
		}
	}
	return a.Auth.Authorize(ctx, attributes)
}
