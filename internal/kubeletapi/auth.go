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
	return strictAuth{auth}, func(ctx context.Context) { ca.Run(ctx, 1) }, nil
}

// strictAuth asks for the right to create nodes/proxy for everything that runs
// something in a container. By the request's method alone, the right to get
// nodes/proxy would do for exec, since WebSockets begin with a GET.
type strictAuth struct{ nodeutil.Auth }

func (a strictAuth) GetRequestAttributes(u user.Info, r *http.Request) authorizer.Attributes {
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
