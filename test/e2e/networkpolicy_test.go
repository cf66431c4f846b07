package e2e

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// policyCase is what policies let through. The connections are real.
type policyCase struct {
	name string
	// policies are the specs of those that there are, in the server's namespace.
	policies []string
	// subjects are the pods whose rules the case is about, and isolates are the
	// directions ("in", "out", "in out") in which they are isolated.
	subjects, isolates string
	allowed, denied    []string
}

// deny isolates all pods of the namespace.
const (
	denyIngress = `{podSelector: {}, policyTypes: [Ingress]}`
	denyEgress  = `{podSelector: {}, policyTypes: [Egress]}`
)

// toServer is a policy that lets in to the server what the rules say; fromServer
// lets out.
func toServer(rules string) string {
	return `{podSelector: {matchLabels: {app: server}}, policyTypes: [Ingress], ingress: [` + rules + `]}`
}

func fromServer(rules string) string {
	return `{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], egress: [` + rules + `]}`
}

// ingress is a case of policies about what reaches the server.
func ingress(name string, policies []string, allowed, denied []string) policyCase {
	return policyCase{name, policies, "server", "in", allowed, denied}
}

// egress is a case of policies about what the server reaches.
func egress(name string, policies []string, allowed, denied []string) policyCase {
	return policyCase{name, policies, "server", "out", allowed, denied}
}

type list = []string

// The pods: server, friend and spare are on cells, node on the ordinary node, all
// in the namespace $A whose label is team=$A; stranger is on a cell in $B, with
// team=$B. host is in the network of its cell, nodehost in that of the ordinary
// node. Labels: app is the pod's name; tier is back for the server and front for
// friend, node and stranger. Ports by name: server has http 8000, alt 8001 and
// dns 8000/UDP, friend http 8001, stranger http 9000. The ordinary node enforces
// no policies: node is isolated by none.
var policyCases = []policyCase{
	// Default deny, and what it does not touch.
	{"deny ingress of all pods", list{denyIngress}, "server friend", "in",
		list{"server>node:8000", "server>stranger:8000/udp", "node>stranger:8000"},
		list{"friend>server:8000", "friend>server:8000/udp", "node>server:8000", "stranger>server:8001", "host>server:8000", "server>friend:8000"}},
	ingress("deny ingress of one pod", list{toServer("")},
		list{"server>friend:8000", "friend>node:8000", "stranger>friend:8000"},
		list{"friend>server:8000", "stranger>server:8000/udp"}),
	{"deny egress of all pods", list{denyEgress}, "server friend", "out",
		list{"node>server:8000", "stranger>server:8000/udp", "stranger>friend:8000"},
		list{"server>node:8000", "server>stranger:8000", "server>friend:8000/udp", "friend>node:8000", "server>api:6443"}},
	egress("deny egress of one pod", list{fromServer("")},
		list{"friend>server:8000", "friend>node:8000"},
		list{"server>friend:8000", "server>stranger:8000/udp", "server>node:8001"}),
	{"deny both", list{`{podSelector: {}, policyTypes: [Ingress, Egress]}`}, "server friend", "in out",
		list{"node>stranger:8000"},
		list{"friend>server:8000", "server>friend:8000", "server>stranger:8000", "stranger>friend:8000/udp"}},
	ingress("policyTypes left out, no egress rules: ingress alone", list{`{podSelector: {matchLabels: {app: server}}}`},
		list{"server>stranger:8000"}, list{"friend>server:8000"}),
	{"policyTypes left out, with egress rules: both", list{`{podSelector: {matchLabels: {app: server}}, egress: [{ports: [{port: 8001}]}]}`}, "server", "in out",
		list{"server>stranger:8001"}, list{"server>stranger:8000", "friend>server:8000"}},
	egress("ingress rules without the type say nothing", list{`{podSelector: {matchLabels: {app: server}}, policyTypes: [Egress], ingress: [{ports: [{port: 1}]}]}`},
		list{"friend>server:8000"}, list{"server>friend:8000"}),

	// Whom a policy is about.
	ingress("selected by expression In", list{`{podSelector: {matchExpressions: [{key: app, operator: In, values: [server, other]}]}, policyTypes: [Ingress]}`},
		list{"server>friend:8000"}, list{"friend>server:8000"}),
	ingress("selected by expression NotIn", list{`{podSelector: {matchExpressions: [{key: app, operator: NotIn, values: [friend, spare]}]}, policyTypes: [Ingress]}`},
		list{"server>friend:8000"}, list{"friend>server:8000"}),
	ingress("selected by expression Exists", list{`{podSelector: {matchExpressions: [{key: special, operator: Exists}]}, policyTypes: [Ingress]}`},
		list{"server>friend:8000"}, list{"friend>server:8000"}),
	ingress("selected by expression DoesNotExist", list{`{podSelector: {matchExpressions: [{key: plain, operator: DoesNotExist}]}, policyTypes: [Ingress]}`},
		list{"stranger>friend:8000"}, list{"stranger>server:8000", "friend>server:8000"}),
	{"another pod is selected", list{`{podSelector: {matchLabels: {app: friend}}, policyTypes: [Ingress]}`}, "friend", "in",
		list{"node>server:8000", "stranger>server:8000", "friend>server:8000"}, list{"server>friend:8000"}},
	{"a pod in the cell's network is nobody's", list{`{podSelector: {}, policyTypes: [Ingress, Egress]}`}, "server friend", "in out",
		list{"stranger>host:8000", "host>stranger:8000"}, list{"friend>host:8000", "host>server:8000"}},

	// Peers.
	ingress("an empty rule is everybody", list{toServer(`{}`)},
		list{"friend>server:8000", "stranger>server:8001/udp", "node>server:9000", "host>server:8000"}, nil),
	ingress("an empty list of peers is everybody", list{toServer(`{from: [], ports: [{port: 8000}]}`)},
		list{"friend>server:8000", "stranger>server:8000", "nodehost>server:8000"}, list{"friend>server:8001", "stranger>server:8000/udp"}),
	ingress("from pods by label", list{toServer(`{from: [{podSelector: {matchLabels: {app: friend}}}]}`)},
		list{"friend>server:8000", "friend>server:8002/udp"}, list{"node>server:8000", "stranger>server:8000"}),
	ingress("a podSelector is about its own namespace", list{toServer(`{from: [{podSelector: {matchLabels: {tier: front}}}]}`)},
		list{"friend>server:8000", "node>server:8000"}, list{"stranger>server:8000", "spare>server:8000"}),
	ingress("an empty podSelector is all pods of the namespace", list{toServer(`{from: [{podSelector: {}}]}`)},
		list{"friend>server:8000", "spare>server:8000/udp", "node>server:8000"}, list{"stranger>server:8000", "host>server:8000", "nodehost>server:8000"}),
	ingress("from a pod of an ordinary node", list{toServer(`{from: [{podSelector: {matchLabels: {app: node}}}]}`)},
		list{"node>server:8000"}, list{"friend>server:8000", "nodehost>server:8000"}),
	ingress("from a namespace by label", list{toServer(`{from: [{namespaceSelector: {matchLabels: {team: $B}}}]}`)},
		list{"stranger>server:8000", "stranger>server:8000/udp"}, list{"friend>server:8000", "node>server:8000"}),
	ingress("from a namespace by name", list{toServer(`{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: $B}}}]}`)},
		list{"stranger>server:8000"}, list{"friend>server:8000"}),
	ingress("an empty namespaceSelector is all pods", list{toServer(`{from: [{namespaceSelector: {}}]}`)},
		list{"stranger>server:8000", "friend>server:8000", "node>server:8000"}, list{"host>server:8000", "nodehost>server:8000"}),
	ingress("namespace and pod in one peer are both required", list{toServer(`{from: [{namespaceSelector: {matchLabels: {team: $A}}, podSelector: {matchLabels: {tier: front}}}]}`)},
		list{"friend>server:8000", "node>server:8000"}, list{"stranger>server:8000", "spare>server:8000"}),
	ingress("namespace and pod in two peers: either", list{toServer(`{from: [{namespaceSelector: {matchLabels: {team: $B}}}, {podSelector: {matchLabels: {app: friend}}}]}`)},
		list{"friend>server:8000", "stranger>server:8000"}, list{"node>server:8000", "spare>server:8000"}),
	ingress("any namespace, pods by label", list{toServer(`{from: [{namespaceSelector: {}, podSelector: {matchLabels: {app: stranger}}}]}`)},
		list{"stranger>server:8000"}, list{"friend>server:8000"}),
	ingress("a namespace by expression", list{toServer(`{from: [{namespaceSelector: {matchExpressions: [{key: team, operator: NotIn, values: [$A]}]}}]}`)},
		list{"stranger>server:8000"}, list{"friend>server:8000", "spare>server:8000"}),
	ingress("peers that nobody is", list{toServer(`{from: [{podSelector: {matchLabels: {app: nobody}}}]}`)},
		list{"server>friend:8000"}, list{"friend>server:8000", "stranger>server:8000"}),
	ingress("a pod is no peer of itself, and reaches itself", list{toServer("")},
		list{"server>server:8000"}, list{"friend>server:8000"}),

	// Blocks.
	ingress("from everywhere as a block", list{toServer(`{from: [{ipBlock: {cidr: 0.0.0.0/0}}]}`)},
		list{"friend>server:8000", "stranger>server:8000/udp", "host>server:8000", "nodehost>server:8000"}, nil),
	ingress("from one address", list{toServer(`{from: [{ipBlock: {cidr: $friend/32}}]}`)},
		list{"friend>server:8000"}, list{"node>server:8000", "stranger>server:8000"}),
	ingress("a block means pods' addresses too", list{toServer(`{from: [{ipBlock: {cidr: $stranger/32}}, {ipBlock: {cidr: $node/32}}]}`)},
		list{"node>server:8000", "stranger>server:8000"}, list{"friend>server:8000", "host>server:8000"}),
	ingress("a block with an exception", list{toServer(`{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [$friend/32]}}]}`)},
		list{"node>server:8000", "stranger>server:8000/udp"}, list{"friend>server:8000", "friend>server:8000/udp"}),
	ingress("a block with two exceptions", list{toServer(`{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [$friend/32, $node/32]}}]}`)},
		list{"stranger>server:8000", "host>server:8000"}, list{"friend>server:8000", "node>server:8000"}),
	ingress("an exception of one rule is no denial in another", list{toServer(`{from: [{ipBlock: {cidr: 0.0.0.0/0, except: [$friend/32]}}, {podSelector: {matchLabels: {app: friend}}}]}`)},
		list{"friend>server:8000", "stranger>server:8000"}, nil),
	ingress("a pod in its cell's network is the cell's address", list{toServer(`{from: [{ipBlock: {cidr: $host/32}}]}`)},
		list{"host>server:8000"}, list{"friend>server:8000"}),
	ingress("a block elsewhere", list{toServer(`{from: [{ipBlock: {cidr: 203.0.113.0/24}}]}`)},
		list{"server>friend:8000"}, list{"friend>server:8000", "nodehost>server:8000"}),

	// Ports.
	ingress("a port, TCP by default", list{toServer(`{ports: [{port: 8001}]}`)},
		list{"friend>server:8001"}, list{"friend>server:8000", "friend>server:8001/udp"}),
	ingress("a port of UDP", list{toServer(`{ports: [{port: 8000, protocol: UDP}]}`)},
		list{"friend>server:8000/udp"}, list{"friend>server:8000", "friend>server:8001/udp"}),
	ingress("two ports", list{toServer(`{ports: [{port: 8000}, {port: 8001, protocol: UDP}]}`)},
		list{"friend>server:8000", "stranger>server:8001/udp"}, list{"friend>server:8001", "friend>server:8000/udp"}),
	ingress("a range of ports", list{toServer(`{ports: [{port: 8000, endPort: 8001}]}`)},
		list{"friend>server:8000", "friend>server:8001"}, list{"friend>server:8002", "friend>server:9000", "friend>server:8000/udp"}),
	ingress("a range of UDP ports", list{toServer(`{ports: [{port: 8001, endPort: 9000, protocol: UDP}]}`)},
		list{"friend>server:8001/udp", "friend>server:9000/udp"}, list{"friend>server:8000/udp", "friend>server:8001"}),
	ingress("a protocol alone is all its ports", list{toServer(`{ports: [{protocol: UDP}]}`)},
		list{"friend>server:8000/udp", "stranger>server:9000/udp"}, list{"friend>server:8000"}),
	ingress("a port by name", list{toServer(`{ports: [{port: http}]}`)},
		list{"friend>server:8000", "stranger>server:8000"}, list{"friend>server:8001", "friend>server:8000/udp"}),
	ingress("a UDP port by name", list{toServer(`{ports: [{port: dns, protocol: UDP}]}`)},
		list{"friend>server:8000/udp"}, list{"friend>server:8000", "friend>server:8001/udp"}),
	ingress("a name of the other protocol", list{toServer(`{ports: [{port: dns}, {port: alt}]}`)},
		list{"friend>server:8001"}, list{"friend>server:8000", "friend>server:8000/udp"}),
	ingress("a name that the pod does not have", list{toServer(`{ports: [{port: missing}]}`)},
		list{"server>friend:8000"}, list{"friend>server:8000", "friend>server:8001"}),
	ingress("SCTP", list{toServer(`{ports: [{port: 8000, protocol: SCTP}]}`)},
		list{"friend>server:8000/sctp"}, list{"friend>server:8001/sctp", "friend>server:8000", "friend>server:8000/udp"}),
	ingress("SCTP is not TCP", list{toServer(`{ports: [{port: 8000}]}`)},
		list{"friend>server:8000"}, list{"friend>server:8000/sctp"}),
	ingress("peers and ports of one rule are both required", list{toServer(`{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8000}]}`)},
		list{"friend>server:8000"}, list{"friend>server:8001", "node>server:8000"}),
	ingress("ports of another rule do not mix", list{toServer(`{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8000}]}, {from: [{podSelector: {matchLabels: {app: node}}}], ports: [{port: 8001}]}`)},
		list{"friend>server:8000", "node>server:8001"}, list{"friend>server:8001", "node>server:8000"}),

	// Several policies.
	ingress("policies add up", list{toServer(`{from: [{podSelector: {matchLabels: {app: friend}}}]}`), toServer(`{from: [{podSelector: {matchLabels: {app: node}}}]}`)},
		list{"friend>server:8000", "node>server:8000"}, list{"stranger>server:8000", "spare>server:8000"}),
	{"deny all, and a policy that allows", list{denyIngress, toServer(`{ports: [{port: 8000}]}`)}, "server friend", "in",
		list{"friend>server:8000", "stranger>server:8000"}, list{"friend>server:8001", "stranger>friend:8000"}},
	ingress("the looser of two wins", list{toServer(`{ports: [{port: 8000}]}`), toServer(`{}`)},
		list{"friend>server:8000", "friend>server:8001", "stranger>server:8000/udp"}, nil),
	{"each end has its say: the client may not", list{denyEgress, toServer(`{}`)}, "server friend", "in out",
		list{"stranger>server:8000"}, list{"friend>server:8000", "server>friend:8000"}},
	{"each end has its say: the server may not", list{denyIngress, `{podSelector: {}, policyTypes: [Egress], egress: [{}]}`}, "server friend", "in out",
		list{"server>stranger:8000"}, list{"friend>server:8000", "server>friend:8000"}},
	{"each end has its say: both may", list{
		`{podSelector: {matchLabels: {app: friend}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: server}}}]}]}`,
		toServer(`{from: [{podSelector: {matchLabels: {app: friend}}}]}`)}, "server friend", "in out",
		list{"friend>server:8000"}, list{"friend>node:8000", "node>server:8000"}},

	// Egress.
	egress("an empty rule is anywhere", list{fromServer(`{}`)},
		list{"server>friend:8000", "server>stranger:8001/udp", "server>api:6443"}, nil),
	egress("to pods by label", list{fromServer(`{to: [{podSelector: {matchLabels: {app: friend}}}]}`)},
		list{"server>friend:8000", "server>friend:8000/udp"}, list{"server>node:8000", "server>stranger:8000", "server>api:6443"}),
	egress("to a pod of an ordinary node", list{fromServer(`{to: [{podSelector: {matchLabels: {app: node}}}]}`)},
		list{"server>node:8000"}, list{"server>friend:8000", "server>nodehost:8000"}),
	egress("to another namespace", list{fromServer(`{to: [{namespaceSelector: {matchLabels: {team: $B}}}]}`)},
		list{"server>stranger:8000"}, list{"server>friend:8000", "server>node:8000/udp"}),
	egress("to pods of other namespaces by label", list{fromServer(`{to: [{namespaceSelector: {}, podSelector: {matchLabels: {tier: front}}}]}`)},
		list{"server>stranger:8000", "server>friend:8000"}, list{"server>spare:8000", "server>host:8000"}),
	egress("to a block", list{fromServer(`{to: [{ipBlock: {cidr: $api/32}}]}`)},
		list{"server>api:6443"}, list{"server>friend:8000", "server>stranger:8000"}),
	egress("to a block with an exception", list{fromServer(`{to: [{ipBlock: {cidr: 0.0.0.0/0, except: [$stranger/32, $api/32]}}]}`)},
		list{"server>friend:8000", "server>node:8000/udp"}, list{"server>stranger:8000", "server>api:6443"}),
	egress("to a port", list{fromServer(`{ports: [{port: 8000}]}`)},
		list{"server>friend:8000", "server>stranger:8000"}, list{"server>friend:8001", "server>friend:8000/udp", "server>api:6443"}),
	egress("to a range of ports", list{fromServer(`{to: [{podSelector: {}}], ports: [{port: 8001, endPort: 8002, protocol: UDP}]}`)},
		list{"server>friend:8001/udp", "server>node:8002/udp"}, list{"server>friend:8000/udp", "server>friend:8001", "server>stranger:8001/udp"}),
	egress("a port by name is another number at each peer", list{fromServer(`{to: [{namespaceSelector: {}}], ports: [{port: http}]}`)},
		list{"server>friend:8001", "server>stranger:9000"}, list{"server>friend:8000", "server>stranger:8000", "server>node:8000", "server>stranger:9000/udp"}),
	egress("a port by name, of whomever", list{fromServer(`{ports: [{port: http}]}`)},
		list{"server>friend:8001", "server>stranger:9000"}, list{"server>friend:9000", "server>stranger:8001", "server>api:6443"}),
	egress("a port by name, in a block", list{fromServer(`{to: [{ipBlock: {cidr: $stranger/32}}], ports: [{port: http}]}`)},
		list{"server>stranger:9000"}, list{"server>friend:8001", "server>stranger:8000"}),
	egress("SCTP out", list{fromServer(`{ports: [{port: 8001, protocol: SCTP}]}`)},
		list{"server>friend:8001/sctp"}, list{"server>friend:8000/sctp", "server>friend:8001"}),
	egress("the own cell is always reached", list{fromServer("")},
		list{"server>owncell:10000 refused"}, list{"server>host:8000"}),

	// Services are judged by where they lead.
	{"a Service of the server", list{`{podSelector: {matchLabels: {app: friend}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: server}}}], ports: [{port: 8000}]}]}`}, "friend", "out",
		list{"friend>service:80", "friend>server:8000"}, list{"friend>service:81", "friend>node:8000"}},
	{"the Service's own port and address do not count", list{`{podSelector: {matchLabels: {app: friend}}, policyTypes: [Egress], egress: [{ports: [{port: 80}]}, {to: [{ipBlock: {cidr: $service/32}}]}]}`}, "friend", "out",
		list{"server>friend:8000"}, list{"friend>service:80", "friend>server:8000"}},
	ingress("by way of a Service the client is who it is", list{toServer(`{from: [{podSelector: {matchLabels: {app: friend}}}], ports: [{port: 8000}]}`)},
		list{"friend>service:80"}, list{"spare>service:80", "stranger>service:80", "friend>service:81", "node>service:80"}),
	{"a pod reaches itself by its Service", list{`{podSelector: {}, policyTypes: [Ingress, Egress]}`}, "server friend", "in out",
		list{"server>service:80"}, list{"friend>service:80"}},
}

// TestNetworkPolicy puts one case after another in force and checks each by real
// connections, allowed and denied.
func TestNetworkPolicy(t *testing.T) {
	t.Parallel()
	p := newPolicies(t)
	if len(policyCases) < 60 {
		t.Errorf("there are %d cases", len(policyCases))
	}
	start := time.Now()
	for i, c := range policyCases {
		p.check(i, c)
	}
	t.Logf("%d cases took %.1f s", len(policyCases), time.Since(start).Seconds())

	// All the while the kubelet's probes went on.
	server := p.awaitReady("server")
	if n := server.Status.ContainerStatuses[0].RestartCount; n != 0 {
		t.Errorf("the server restarted %d times: its probes were cut off", n)
	}
	p.followLabels()
	p.set()
	p.deletePolicy("witness")
	p.net.becomes(p.space, "without a policy all is open",
		list{"friend>server:8000", "stranger>server:8001", "server>stranger:8000", "server>friend:9000/udp"}, nil)
}

// policies is the world of the cases.
type policies struct {
	*space
	other *space
	net   *network
	names *strings.Replacer
	last  []string // names of policies
}

func newPolicies(t *testing.T) *policies {
	p := &policies{space: newSpace(t), other: newSpace(t), net: &network{addresses: map[string]string{}, probers: map[string]*prober{}}}
	p.label(p.space, p.space.name)
	p.label(p.other, p.other.name)

	server := newPeer("server", named("http", 8000, corev1.ProtocolTCP), named("alt", 8001, corev1.ProtocolTCP), named("dns", 8000, corev1.ProtocolUDP))
	server.Labels["tier"], server.Labels["special"] = "back", ""
	server.Spec.Containers[0].LivenessProbe = &corev1.Probe{
		ProbeHandler:  corev1.ProbeHandler{TCPSocket: &corev1.TCPSocketAction{Port: port(8000)}},
		PeriodSeconds: 1, TimeoutSeconds: 5, FailureThreshold: 3,
	}
	friend := newPeer("friend", named("http", 8001, corev1.ProtocolTCP))
	friend.Labels["tier"], friend.Labels["plain"] = "front", ""
	spare := newPeer("spare")
	spare.Labels["tier"] = "back"
	host := newPeer("host")
	host.Spec.HostNetwork = true
	node := onNode(newPeer("node"))
	node.Labels["tier"] = "front"
	nodeHost := onNode(newPeer("nodehost"))
	nodeHost.Spec.HostNetwork = true
	stranger := newPeer("stranger", named("http", 9000, corev1.ProtocolTCP))
	stranger.Labels["tier"] = "front"

	for _, pod := range []*corev1.Pod{server, friend, spare, host, node, nodeHost} {
		p.create(pod)
	}
	p.other.create(stranger)
	service, err := shared.kube.CoreV1().Services(p.space.name).Create(t.Context(), &corev1.Service{
		ObjectMeta: metav1.ObjectMeta{Name: "server"},
		Spec: corev1.ServiceSpec{Selector: map[string]string{"app": "server"}, Ports: []corev1.ServicePort{
			{Name: "a", Port: 80, TargetPort: port(8000)}, {Name: "b", Port: 81, TargetPort: port(8001)},
		}},
	}, metav1.CreateOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.net.addresses["service"] = service.Spec.ClusterIP
	api, err := shared.kube.DiscoveryV1().EndpointSlices("default").Get(t.Context(), "kubernetes", metav1.GetOptions{})
	if err != nil {
		t.Fatal(err)
	}
	p.net.addresses["api"] = api.Endpoints[0].Addresses[0]

	for _, pod := range []string{"server", "friend", "spare", "host", "node", "nodehost"} {
		p.net.addresses[pod] = p.awaitReady(pod).Status.PodIP
		p.net.probers[pod] = p.prober(pod)
	}
	p.net.addresses["stranger"] = p.other.awaitReady("stranger").Status.PodIP
	p.net.probers["stranger"] = p.other.prober("stranger")
	ready := p.awaitReady("server")
	p.net.addresses["owncell"] = ready.Status.HostIP

	pairs := []string{"$A", p.space.name, "$B", p.other.name}
	for name, address := range p.net.addresses {
		pairs = append(pairs, "$"+name, address)
	}
	p.names = strings.NewReplacer(pairs...)
	return p
}

func named(name string, number int32, protocol corev1.Protocol) corev1.ContainerPort {
	return corev1.ContainerPort{Name: name, ContainerPort: number, Protocol: protocol}
}

func (p *policies) label(s *space, team string) {
	p.Helper()
	if out, code := s.tryKubectl("", "label", "namespace", s.name, "team="+team); code != 0 {
		p.Fatal(out)
	}
}

// set makes the policies those of the specs, and removes what was there.
func (p *policies) set(specs ...string) {
	p.Helper()
	for len(p.last) > len(specs) {
		n := len(p.last) - 1
		p.deletePolicy(p.last[n])
		p.last = p.last[:n]
	}
	for i, text := range specs {
		p.putPolicy(fmt.Sprint("policy-", i), policySpec(p, p.names.Replace(text)))
		if i >= len(p.last) {
			p.last = append(p.last, fmt.Sprint("policy-", i))
		}
	}
}

// witness is written after the policies of a case, and lets a port through at
// which nobody listens: when that is refused instead of dropped, the policies
// before it are in force, unless the pod was not isolated before. And then what
// the case denies passes until they are. So a case holds when, after the witness,
// all of it holds at once.
func (p *policies) witness(c policyCase, number int32) {
	p.Helper()
	to := intstr.FromInt32(number)
	ports := []networkingv1.NetworkPolicyPort{{Port: &to}}
	spec := networkingv1.NetworkPolicySpec{PodSelector: metav1.LabelSelector{
		MatchExpressions: []metav1.LabelSelectorRequirement{{Key: "app", Operator: metav1.LabelSelectorOpIn, Values: strings.Fields(c.subjects)}},
	}}
	var tries []string
	if strings.Contains(c.isolates, "in") {
		spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeIngress)
		spec.Ingress = []networkingv1.NetworkPolicyIngressRule{{Ports: ports}}
		for subject := range strings.FieldsSeq(c.subjects) {
			tries = append(tries, fmt.Sprintf("stranger>%s:%d", subject, number))
		}
	}
	if strings.Contains(c.isolates, "out") {
		spec.PolicyTypes = append(spec.PolicyTypes, networkingv1.PolicyTypeEgress)
		spec.Egress = []networkingv1.NetworkPolicyEgressRule{{Ports: ports}}
		for subject := range strings.FieldsSeq(c.subjects) {
			tries = append(tries, fmt.Sprintf("%s>stranger:%d", subject, number))
		}
	}
	p.putPolicy("witness", spec)
	for _, text := range tries {
		r, err := parseReach(text)
		if err != nil {
			p.Fatal(err)
		}
		p.eventually(c.name+": in force", func(context.Context) error {
			address := p.net.addresses[r.to] + ":" + r.port
			if got := p.net.probers[r.from].try(p, "tcp", address, 100*time.Millisecond); got != "refused" {
				return errors.New(got)
			}
			return nil
		})
	}
}

func (p *policies) check(i int, c policyCase) {
	p.Run(fmt.Sprintf("%02d %s", i+1, c.name), func(t *testing.T) {
		// What fails, fails this case.
		q := *p
		q.space = &space{t, p.space.name}
		q.set(c.policies...)
		p.last = q.last
		q.witness(c, 10001+int32(i))
		q.net.becomes(q.space, "allowed and denied", c.allowed, c.denied)
	})
}

// followLabels: peers come and go by their labels, and by their namespace's.
func (p *policies) followLabels() {
	p.set(toServer(`{from: [{namespaceSelector: {matchLabels: {team: wanted}}}, {podSelector: {matchLabels: {role: wanted}}}]}`))
	p.witness(policyCase{name: "labels", subjects: "server", isolates: "in"}, 12000)
	both := list{"friend>server:8000", "stranger>server:8000"}
	p.net.becomes(p.space, "nobody has the labels", nil, both)
	p.kubectl("label", "pod", "friend", "role=wanted")
	p.kubectl("label", "--overwrite", "namespace", p.other.name, "team=wanted")
	p.net.becomes(p.space, "who has the labels is let in", both, nil)
	p.kubectl("label", "pod", "friend", "role-")
	p.kubectl("label", "--overwrite", "namespace", p.other.name, "team=unwanted")
	p.net.becomes(p.space, "who has them no longer is not", nil, both)
}
