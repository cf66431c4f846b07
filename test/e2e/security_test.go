package e2e

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"strings"
	"testing"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	certificatesv1 "k8s.io/api/certificates/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// stolen is a client with the credentials that a cell's root finds, from within
// the cell.
func (m machine) stolen(t *testing.T, file string) (*rest.Config, kubernetes.Interface) {
	t.Helper()
	config, err := clientcmd.RESTConfigFromKubeConfig(m.read(t, file))
	if err != nil {
		t.Fatal(err)
	}
	config.Dial = func(_ context.Context, network, address string) (net.Conn, error) { return m.dial(network, address) }
	config.QPS = -1
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		t.Fatal(err)
	}
	return config, client
}

const kubeletConfig = "/etc/kip/kubernetes/kubelet.kubeconfig"

// Whoever owns a cell, its root included, gets what the cell's pod refers to,
// and nothing else.
func TestCellIsConfined(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: Secret
metadata: {name: mine}
stringData: {word: sesame}
---
apiVersion: v1
kind: Secret
metadata: {name: other}
stringData: {word: sesame}
---
apiVersion: v1
kind: ConfigMap
metadata: {name: other}
---
apiVersion: v1
kind: ServiceAccount
metadata: {name: boss}
`)
	victim := newPod("victim", shell("main", forever))
	victim.Spec.ServiceAccountName = "boss"
	s.create(victim)
	container := shell("main", forever)
	container.EnvFrom = []corev1.EnvFromSource{{SecretRef: &corev1.SecretEnvSource{LocalObjectReference: corev1.LocalObjectReference{Name: "mine"}}}}
	pod := s.start(newPod("pod", container))
	victim = s.awaitReady("victim")
	cell := s.cellOf(pod)
	m := machineOf(t, cell)
	_, client := m.stolen(t, kubeletConfig)
	core := client.CoreV1()
	get, list, patch := metav1.GetOptions{}, metav1.ListOptions{}, metav1.PatchOptions{}
	token := func(account string, audiences []string, bound *authenticationv1.BoundObjectReference) func(context.Context) error {
		return func(ctx context.Context) error {
			hour := int64(3607) // what the API server makes of an hour for kube-api-access
			_, err := core.ServiceAccounts(s.name).CreateToken(ctx, account, &authenticationv1.TokenRequest{
				Spec: authenticationv1.TokenRequestSpec{Audiences: audiences, BoundObjectRef: bound, ExpirationSeconds: &hour},
			}, metav1.CreateOptions{})
			return err
		}
	}
	bound := func(pod *corev1.Pod) *authenticationv1.BoundObjectReference {
		return &authenticationv1.BoundObjectReference{Kind: "Pod", APIVersion: "v1", Name: pod.Name, UID: pod.UID}
	}
	readyStatus := []byte(fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"phase":"Failed"}}`, victim.UID))

	// Without these the refusals below would prove nothing.
	t.Run("Allowed", func(t *testing.T) {
		for what, try := range map[string]func(context.Context) error{
			"its pod":             func(ctx context.Context) error { _, err := core.Pods(s.name).Get(ctx, "pod", get); return err },
			"a Secret of its pod": func(ctx context.Context) error { _, err := core.Secrets(s.name).Get(ctx, "mine", get); return err },
			"a token for its pod": token("default", nil, bound(pod)),
			"its node": func(ctx context.Context) error {
				_, err := core.Nodes().Get(ctx, localcluster.NodeName, get)
				return err
			},
			"what every node sees": func(ctx context.Context) error { _, err := core.Services("").List(ctx, list); return err },
		} {
			if err := try(t.Context()); err != nil {
				t.Errorf("%s: %v", what, err)
			}
		}
	})

	t.Run("Refused", func(t *testing.T) {
		for what, try := range map[string]func(context.Context) error{
			"a Secret that its pod does not refer to": func(ctx context.Context) error { _, err := core.Secrets(s.name).Get(ctx, "other", get); return err },
			"a Secret of that name elsewhere":         func(ctx context.Context) error { _, err := core.Secrets("default").Get(ctx, "mine", get); return err },
			"Kip's authority":                         func(ctx context.Context) error { _, err := core.Secrets("kip").Get(ctx, "kip-ca", get); return err },
			"all Secrets of the namespace":            func(ctx context.Context) error { _, err := core.Secrets(s.name).List(ctx, list); return err },
			"all Secrets":                             func(ctx context.Context) error { _, err := core.Secrets("").List(ctx, list); return err },
			"a watch of all Secrets":                  func(ctx context.Context) error { _, err := core.Secrets("").Watch(ctx, list); return err },
			"a ConfigMap that its pod does not refer to": func(ctx context.Context) error {
				_, err := core.ConfigMaps(s.name).Get(ctx, "other", get)
				return err
			},
			"changing its own Secret": func(ctx context.Context) error {
				_, err := core.Secrets(s.name).Patch(ctx, "mine", types.MergePatchType, []byte(`{"stringData":{"word":"x"}}`), patch)
				return err
			},

			"another pod":             func(ctx context.Context) error { _, err := core.Pods(s.name).Get(ctx, "victim", get); return err },
			"the pods of a namespace": func(ctx context.Context) error { _, err := core.Pods(s.name).List(ctx, list); return err },
			"another pod's log": func(ctx context.Context) error {
				_, err := core.Pods(s.name).GetLogs("victim", &corev1.PodLogOptions{}).DoRaw(ctx)
				return err
			},
			"another pod's status": func(ctx context.Context) error {
				_, err := core.Pods(s.name).Patch(ctx, "victim", types.StrategicMergePatchType, readyStatus, patch, "status")
				return err
			},
			"deleting another pod": func(ctx context.Context) error {
				return core.Pods(s.name).Delete(ctx, "victim", metav1.DeleteOptions{})
			},
			"deleting its own pod": func(ctx context.Context) error { return core.Pods(s.name).Delete(ctx, "pod", metav1.DeleteOptions{}) },
			"changing its own pod": func(ctx context.Context) error {
				_, err := core.Pods(s.name).Patch(ctx, "pod", types.MergePatchType, []byte(`{"metadata":{"labels":{"app":"victim"}}}`), patch)
				return err
			},
			"making a pod": func(ctx context.Context) error {
				_, err := core.Pods(s.name).Create(ctx, newPod("new", shell("main", forever)), metav1.CreateOptions{})
				return err
			},
			"evicting another pod": func(ctx context.Context) error {
				return core.Pods(s.name).EvictV1(ctx, &policyv1.Eviction{ObjectMeta: metav1.ObjectMeta{Name: "victim"}})
			},
			"a foreign address": func(ctx context.Context) error {
				_, err := core.Pods(s.name).Patch(ctx, "pod", types.StrategicMergePatchType, []byte(fmt.Sprintf(`{"metadata":{"uid":%q},"status":{"podIP":%q}}`, pod.UID, victim.Status.PodIP)), patch, "status")
				return err
			},
			"an event about another": func(ctx context.Context) error {
				_, err := core.Events(s.name).Create(ctx, eventAbout(victim), metav1.CreateOptions{})
				return err
			},
			"a token of another account":   token("boss", nil, bound(pod)),
			"a token for another pod":      token("default", nil, bound(victim)),
			"both":                         token("boss", nil, bound(victim)),
			"an unbound token":             token("default", nil, nil),
			"a token for another audience": token("default", []string{"sts.amazonaws.com"}, bound(pod)),

			"the nodes":    func(ctx context.Context) error { _, err := core.Nodes().List(ctx, list); return err },
			"another node": func(ctx context.Context) error { _, err := core.Nodes().Get(ctx, "other", get); return err },
			"making a node": func(ctx context.Context) error {
				_, err := core.Nodes().Create(ctx, &corev1.Node{ObjectMeta: metav1.ObjectMeta{Name: "other"}}, metav1.CreateOptions{})
				return err
			},
			"namespaces":       func(ctx context.Context) error { _, err := core.Namespaces().List(ctx, list); return err },
			"service accounts": func(ctx context.Context) error { _, err := core.ServiceAccounts(s.name).List(ctx, list); return err },
			"cells": func(ctx context.Context) error {
				return client.CoreV1().RESTClient().Get().AbsPath("/apis/kip.elotl.co/v1beta1/cells").Do(ctx).Error()
			},
			"metrics": func(ctx context.Context) error {
				return client.CoreV1().RESTClient().Get().AbsPath("/metrics").Do(ctx).Error()
			},
			"a way around": func(ctx context.Context) error {
				return client.CoreV1().RESTClient().Get().AbsPath("/api/v1/namespaces/" + s.name + "/pods/pod/../../secrets/other").Do(ctx).Error()
			},
			"a proxy to a node": func(ctx context.Context) error {
				return client.CoreV1().RESTClient().Get().AbsPath("/api/v1/nodes/" + localcluster.NodeName + "/proxy/pods").Do(ctx).Error()
			},
			"a review of a token": func(ctx context.Context) error {
				_, err := client.AuthenticationV1().TokenReviews().Create(ctx, &authenticationv1.TokenReview{Spec: authenticationv1.TokenReviewSpec{Token: "x"}}, metav1.CreateOptions{})
				return err
			},
			"a certificate": func(ctx context.Context) error {
				_, err := client.CertificatesV1().CertificateSigningRequests().Create(ctx, &certificatesv1.CertificateSigningRequest{ObjectMeta: metav1.ObjectMeta{Name: s.name}}, metav1.CreateOptions{})
				return err
			},
		} {
			t.Run(strings.ReplaceAll(what, " ", "-"), func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
				defer cancel()
				err := try(ctx)
				if !apierrors.IsForbidden(err) {
					t.Fatalf("the answer is %v, want 403 Forbidden", err)
				}
			})
		}
	})

	t.Run("ListShowsOwnPod", func(t *testing.T) {
		pods, err := core.Pods("").List(t.Context(), list)
		if err != nil {
			t.Fatal(err)
		}
		if len(pods.Items) != 1 || pods.Items[0].UID != pod.UID {
			t.Errorf("a list of all pods has %d, want the cell's own alone", len(pods.Items))
		}
	})
	t.Run("NodeIsItsOwn", func(t *testing.T) {
		// Answered, but the change is for this cell's eyes only.
		if _, err := core.Nodes().Patch(t.Context(), localcluster.NodeName, types.MergePatchType,
			[]byte(`{"metadata":{"labels":{"e2e":"broken"}},"spec":{"unschedulable":true}}`), patch); err != nil {
			t.Logf("the patch is refused: %v", err)
		}
		node, err := shared.kube.CoreV1().Nodes().Get(t.Context(), localcluster.NodeName, get)
		if err != nil {
			t.Fatal(err)
		}
		if node.Spec.Unschedulable || node.Labels["e2e"] != "" {
			t.Error("a cell has changed the virtual node")
		}
	})
	t.Run("OtherDoors", func(t *testing.T) { otherDoors(t, m, s.cellOf(victim).Status.PrimaryIP) })
}

func eventAbout(pod *corev1.Pod) *corev1.Event {
	return &corev1.Event{
		ObjectMeta:     metav1.ObjectMeta{Namespace: pod.Namespace, Name: "lie"},
		InvolvedObject: corev1.ObjectReference{Kind: "Pod", APIVersion: "v1", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Reason:         "Lie", Message: "it is broken", Type: corev1.EventTypeWarning,
	}
}

// otherDoors tries what the cell holds where it was not made for.
func otherDoors(t *testing.T, m machine, neighbour string) {
	api := shared.config.Host
	// The API server itself, with the kubelet's and kube-proxy's credentials
	// and with the agent's own certificate.
	for _, file := range []string{kubeletConfig, "/etc/kip/kubernetes/kube-proxy.kubeconfig"} {
		config, _ := m.stolen(t, file)
		direct := rest.CopyConfig(config)
		direct.Host, direct.CAData, direct.Insecure = api, nil, true
		client, err := kubernetes.NewForConfig(direct)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := client.CoreV1().Pods("default").List(t.Context(), metav1.ListOptions{}); !apierrors.IsUnauthorized(err) && !apierrors.IsForbidden(err) {
			t.Errorf("%s at the API server itself: %v, want a refusal", file, err)
		}
	}
	identity := m.read(t, "/var/lib/kip/identity.pem")
	own, err := tls.X509KeyPair(identity, identity)
	if err != nil {
		t.Fatal(err)
	}
	host := strings.TrimSuffix(strings.TrimPrefix(api, "https://"), ":6443")
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext:     func(_ context.Context, network, address string) (net.Conn, error) { return m.dial(network, address) },
		TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{own}},
	}}
	for what, url := range map[string]string{
		"the API server":                "https://" + host + ":6443/api/v1/pods",
		"Kip's kubelet API":             "https://" + host + ":10250/pods",
		"another cell's agent":          "https://" + neighbour + ":6421/kip/v1/status",
		"another cell's kubelet":        "https://" + neighbour + ":10250/pods",
		"another cell's local API":      "https://" + neighbour + ":6443/api/v1/pods",
		"the administration of the EC2": shared.cloud.url + "/_ec2local/faults",
	} {
		resp, err := client.Get(url)
		if err != nil {
			continue // no connection, or no handshake
		}
		resp.Body.Close()
		if resp.StatusCode != http.StatusUnauthorized && resp.StatusCode != http.StatusForbidden {
			t.Errorf("%s with the agent's certificate: %s, want a refusal", what, resp.Status)
		}
	}
}

// userData reads the cell's user data as any of its processes can.
func (m machine) userData(t *testing.T) []byte {
	t.Helper()
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{
		DialContext: func(_ context.Context, network, address string) (net.Conn, error) { return m.dial(network, address) },
	}}
	ask := func(method, path, header, value string) []byte {
		req, err := http.NewRequestWithContext(t.Context(), method, "http://169.254.169.254/latest/"+path, nil)
		if err != nil {
			t.Fatal(err)
		}
		req.Header.Set(header, value)
		resp, err := client.Do(req)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := readAll(resp.Body)
		if err != nil || resp.StatusCode != http.StatusOK {
			t.Fatalf("%s: %s %s (%v)", path, resp.Status, body, err)
		}
		return body
	}
	token := ask(http.MethodPut, "api/token", "X-aws-ec2-metadata-token-ttl-seconds", "60")
	return ask(http.MethodGet, "user-data", "X-aws-ec2-metadata-token", string(token))
}

// metric returns a series of Kip's, or the sum of a metric over its labels.
func metric(ctx context.Context, name string) (sum float64, err error) {
	var settings struct {
		Port int `json:"metricsPort"`
	}
	if err := json.Unmarshal(clusterFile(), &settings); err != nil {
		return 0, err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, fmt.Sprintf("http://127.0.0.1:%d/metrics", settings.Port), nil)
	if err != nil {
		return 0, err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	text, err := readAll(resp.Body)
	if err != nil {
		return 0, err
	}
	found := false
	for line := range strings.Lines(string(text)) {
		series, value, ok := strings.Cut(strings.TrimSpace(line), " ")
		if bare, _, _ := strings.Cut(series, "{"); !ok || bare != name && series != name {
			continue
		}
		var v float64
		if _, err := fmt.Sscan(value, &v); err != nil {
			return 0, err
		}
		sum, found = sum+v, true
	}
	if !found {
		return 0, errors.New("Kip has no metric " + name)
	}
	return sum, nil
}
