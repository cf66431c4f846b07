package vpcnet

import (
	"net"
	"net/netip"
	"testing"
	"time"

	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/machine"
)

var anywhere = netip.PrefixFrom(netip.IPv4Unspecified(), 0)

// tcp lets connections to some ports pass.
func tcp(from, to int, peer string) machine.Rule {
	return machine.Rule{Protocol: unix.IPPROTO_TCP, From: from, To: to, Peer: netip.MustParsePrefix(peer)}
}

// everything is the rule that new groups have for what leaves.
var everything = machine.Rule{Protocol: machine.Any, Peer: anywhere}

func (g *guest) port(groups ...string) machine.Port { return machine.Port{NIC: g.nic, Groups: groups} }

func enforce(t *testing.T, n *Network, p machine.Policy) {
	t.Helper()
	if err := n.Enforce(t.Context(), p); err != nil {
		t.Fatal(err)
	}
}

// reaches tells whether a connection to port 99 of an address is made. One that is wanted is given time: a busy machine is
// no refusal.
func reaches(from netns.NsHandle, to netip.Addr, wanted bool) bool {
	for deadline := time.Now().Add(10 * time.Second); ; {
		_, err := dial(from, nowhere, netip.AddrPortFrom(to, 99))
		if err == nil || !wanted || time.Now().After(deadline) {
			return err == nil
		}
	}
}

func hostNamespace(t *testing.T) netns.NsHandle {
	t.Helper()
	host, err := netns.Get()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { host.Close() })
	return host
}

// TestSecurityGroups connects a client to a server while one policy after the other is in force, and so sees changes at
// running machines too.
func TestSecurityGroups(t *testing.T) {
	n := openTestNetwork(t)
	client, server := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11)
	listen(t, server.ns)
	addAddress(t, server.ns, "eth0", netip.PrefixFrom(server.secondary(), 32))
	if !reaches(client.ns, server.primary(), true) {
		t.Fatal("without a policy nothing passes")
	}
	out := []machine.Rule{everything}
	cases := map[string]struct {
		reason         string
		ingress        []machine.Rule // of the server's group
		egress         []machine.Rule // of the client's group
		clientGroups   []string
		primary, pod   bool
		withoutTheRest bool // only the server's port is in the policy
	}{
		"NoRule":       {reason: "What no rule lets in stays out.", egress: out, clientGroups: []string{"sg-c"}},
		"All":          {"A rule for everything.", []machine.Rule{everything}, out, []string{"sg-c"}, true, true, false},
		"Port":         {"A rule for the port.", []machine.Rule{tcp(99, 99, "10.221.0.0/16")}, out, []string{"sg-c"}, true, true, false},
		"Range":        {"A range of ports.", []machine.Rule{tcp(1, 100, "10.221.0.10/32")}, out, []string{"sg-c"}, true, true, false},
		"OtherPort":    {reason: "Another port.", ingress: []machine.Rule{tcp(100, 200, "0.0.0.0/0")}, egress: out, clientGroups: []string{"sg-c"}},
		"OtherCIDR":    {reason: "Others' addresses.", ingress: []machine.Rule{tcp(99, 99, "10.221.16.0/20")}, egress: out, clientGroups: []string{"sg-c"}},
		"OtherKind":    {reason: "Another protocol.", ingress: []machine.Rule{{Protocol: unix.IPPROTO_UDP, From: 0, To: 65535, Peer: anywhere}}, egress: out, clientGroups: []string{"sg-c"}},
		"Group":        {"Members of a group.", []machine.Rule{{Protocol: machine.Any, Group: "sg-c"}}, out, []string{"sg-c"}, true, true, false},
		"NoMember":     {reason: "Not a member.", ingress: []machine.Rule{{Protocol: machine.Any, Group: "sg-c"}}, egress: out, clientGroups: []string{"sg-x"}},
		"SecondGroup":  {"One of two groups is enough.", []machine.Rule{{Protocol: machine.Any, Group: "sg-c"}}, nil, []string{"sg-x", "sg-c"}, true, true, false},
		"NoEgress":     {reason: "Nothing may leave.", ingress: []machine.Rule{everything}, clientGroups: []string{"sg-c"}},
		"EgressToPod":  {"Only the pod may be spoken to.", []machine.Rule{everything}, []machine.Rule{tcp(99, 99, server.secondary().String()+"/32")}, []string{"sg-c"}, false, true, false},
		"EgressGroup":  {"Members of a group may be spoken to.", []machine.Rule{everything}, []machine.Rule{{Protocol: machine.Any, Group: "sg-s"}}, []string{"sg-c"}, true, true, false},
		"UnknownPort":  {reason: "Who is not in the policy gets nowhere.", ingress: []machine.Rule{everything}, withoutTheRest: true},
		"NoGroupAtAll": {reason: "Nor does who is in no group.", ingress: []machine.Rule{everything}},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			p := machine.Policy{
				Ports: []machine.Port{server.port("sg-s"), client.port(tc.clientGroups...)},
				Groups: []machine.Group{
					{ID: "sg-s", Ingress: tc.ingress},
					{ID: "sg-c", Egress: tc.egress},
					{ID: "sg-x", Egress: out},
				},
			}
			if tc.withoutTheRest {
				p.Ports = p.Ports[:1]
			}
			enforce(t, n, p)
			if got := reaches(client.ns, server.primary(), tc.primary); got != tc.primary {
				t.Errorf("%s The machine is reached: %t, want %t", tc.reason, got, tc.primary)
			}
			if got := reaches(client.ns, server.secondary(), tc.pod); got != tc.pod {
				t.Errorf("%s The pod is reached: %t, want %t", tc.reason, got, tc.pod)
			}
		})
	}
}

// TestProtocols sends single packets of several kinds.
func TestProtocols(t *testing.T) {
	n := openTestNetwork(t)
	a, b := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11)
	const marker = 254 // a protocol that always passes
	const attempt = "does this arrive?"
	cases := map[string]struct {
		reason  string
		rule    machine.Rule
		kind    byte   // protocol
		head    string // of the packet's content
		arrives bool
	}{
		"UDP":       {"its port", machine.Rule{Protocol: unix.IPPROTO_UDP, From: 53, To: 53}, unix.IPPROTO_UDP, "\x40\x00\x00\x35\x00\x19\x00\x00", true},
		"UDPOther":  {"another port", machine.Rule{Protocol: unix.IPPROTO_UDP, From: 54, To: 99}, unix.IPPROTO_UDP, "\x40\x00\x00\x35\x00\x19\x00\x00", false},
		"Ping":      {"all of ICMP", machine.Rule{Protocol: unix.IPPROTO_ICMP, From: machine.Any, To: machine.Any}, unix.IPPROTO_ICMP, "\x08\x00\x00\x00\x00\x01\x00\x01", true},
		"PingType":  {"its type", machine.Rule{Protocol: unix.IPPROTO_ICMP, From: 8, To: machine.Any}, unix.IPPROTO_ICMP, "\x08\x00\x00\x00\x00\x02\x00\x01", true},
		"PingCode":  {"another code", machine.Rule{Protocol: unix.IPPROTO_ICMP, From: 8, To: 1}, unix.IPPROTO_ICMP, "\x08\x00\x00\x00\x00\x03\x00\x01", false},
		"PingOther": {"another type", machine.Rule{Protocol: unix.IPPROTO_ICMP, From: 13, To: 0}, unix.IPPROTO_ICMP, "\x08\x00\x00\x00\x00\x04\x00\x01", false},
		"Number":    {"its number", machine.Rule{Protocol: 253}, 253, "", true},
		"Number2":   {"another number", machine.Rule{Protocol: 252}, 253, "", false},
	}
	toRouter, from := n.config.routerMAC(), mac(t, a.nic.MAC)
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.rule.Peer = netip.PrefixFrom(a.primary(), 32)
			enforce(t, n, machine.Policy{
				Ports: []machine.Port{a.port("sg-a"), b.port("sg-b")},
				Groups: []machine.Group{
					{ID: "sg-a", Egress: []machine.Rule{everything}},
					{ID: "sg-b", Ingress: []machine.Rule{tc.rule, {Protocol: marker, Peer: anywhere}}},
				},
			})
			out, in := openPacketSocket(t, a.ns), openPacketSocket(t, b.ns)
			packet := func(kind byte, content string) []byte {
				return ethernet(toRouter, from, typeIPv4, ipv4Of(kind, a.primary(), b.primary(), content))
			}
			out.send(t, packet(tc.kind, tc.head+attempt))
			out.send(t, packet(marker, "this one arrives"))
			if got := in.receivedBefore(t, attempt, "this one arrives"); got != tc.arrives {
				t.Errorf("a rule for %s: arrived %t, want %t", tc.reason, got, tc.arrives)
			}
		})
	}
}

// TestConnectionsGoOn takes rules away from a connection that was let pass: EC2 tracks connections, and so is this.
func TestConnectionsGoOn(t *testing.T) {
	n := openTestNetwork(t)
	client, server := attachGuest(t, n, 0, 10), attachGuest(t, n, 1, 11)
	policy := func(ingress ...machine.Rule) machine.Policy {
		return machine.Policy{
			Ports:  []machine.Port{client.port("sg-c"), server.port("sg-s")},
			Groups: []machine.Group{{ID: "sg-c", Egress: []machine.Rule{everything}}, {ID: "sg-s", Ingress: ingress}},
		}
	}
	enforce(t, n, policy(tcp(99, 99, "10.221.0.0/16")))
	var listener net.Listener
	err := inNamespace(server.ns, func() (err error) {
		listener, err = net.Listen("tcp4", ":99")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var here net.Conn
	err = inNamespace(client.ns, func() (err error) {
		here, err = net.DialTimeout("tcp4", netip.AddrPortFrom(server.primary(), 99).String(), 5*time.Second)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer here.Close()
	there, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer there.Close()

	enforce(t, n, policy())
	if reaches(client.ns, server.primary(), false) {
		t.Error("a new connection was made without a rule")
	}
	// The server has no egress rule at all, and yet answers.
	for _, way := range [][2]net.Conn{{here, there}, {there, here}} {
		if err := there.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if err := here.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
			t.Fatal(err)
		}
		if _, err := way[0].Write([]byte("x")); err != nil {
			t.Error(err)
		}
		if _, err := way[1].Read(make([]byte, 1)); err != nil {
			t.Errorf("the connection was cut: %v", err)
		}
	}
}

// TestHostUnderPolicy: the host is one more address of the VPC, and the metadata service is beyond all groups.
func TestHostUnderPolicy(t *testing.T) {
	n := openTestNetwork(t)
	g := attachGuest(t, n, 0, 10)
	host := hostNamespace(t)
	listen(t, g.ns)
	service, err := net.Listen("tcp4", net.JoinHostPort(testConfig().HostAddress().String(), "99"))
	if err != nil {
		t.Fatal(err)
	}
	serveRemoteAddress(t, service)
	imds, err := n.ListenIMDS()
	if err != nil {
		t.Fatal(err)
	}
	serveRemoteAddress(t, imds)
	cases := map[string]struct {
		reason  string
		group   machine.Group
		in, out bool
	}{
		"Kip":     {"Kip's own group.", machine.Group{Ingress: []machine.Rule{{Protocol: machine.Any, Peer: testConfig().CIDR}}, Egress: []machine.Rule{everything}}, true, true},
		"Nothing": {"A group without rules.", machine.Group{}, false, false},
		"OutOnly": {"The registry is reached by egress.", machine.Group{Egress: []machine.Rule{tcp(99, 99, "10.221.255.1/32")}}, false, true},
		"InOnly":  {"Kip dials.", machine.Group{Ingress: []machine.Rule{tcp(99, 99, "10.221.255.1/32")}}, true, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			tc.group.ID = "sg-g"
			enforce(t, n, machine.Policy{Ports: []machine.Port{g.port("sg-g")}, Groups: []machine.Group{tc.group}})
			if got := reaches(host, g.primary(), tc.in); got != tc.in {
				t.Errorf("%s The host reaches the machine: %t, want %t", tc.reason, got, tc.in)
			}
			if got := reaches(g.ns, testConfig().HostAddress(), tc.out); got != tc.out {
				t.Errorf("%s The machine reaches the host: %t, want %t", tc.reason, got, tc.out)
			}
			if _, err := dial(g.ns, nowhere, MetadataAddress); err != nil {
				t.Errorf("%s The metadata service: %v", tc.reason, err)
			}
		})
	}
}

// TestPolicyOutlivesTheProcess: between two processes the old policy is in force, and the next one replaces it.
func TestPolicyOutlivesTheProcess(t *testing.T) {
	n := openTestNetwork(t)
	a, b := attachGuest(t, n, 0, 10), attachGuest(t, n, 0, 11)
	listen(t, b.ns)
	closed := machine.Policy{
		Ports:  []machine.Port{a.port("sg-a"), b.port("sg-a")},
		Groups: []machine.Group{{ID: "sg-a", Egress: []machine.Rule{everything}}},
	}
	enforce(t, n, closed)
	if err := n.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Open(t.Context(), testConfig())
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := again.Close(); err != nil {
			t.Error(err)
		}
	}()
	if reaches(a.ns, b.primary(), false) {
		t.Error("the policy is forgotten")
	}
	opened := closed
	opened.Ports = []machine.Port{a.port("sg-b"), b.port("sg-b")}
	opened.Groups = []machine.Group{{ID: "sg-b", Egress: []machine.Rule{everything}, Ingress: []machine.Rule{everything}}}
	for _, p := range []machine.Policy{opened, closed, opened} { // with groups that come and go
		enforce(t, again, p)
		want := p.Groups[0].ID == "sg-b"
		if got := reaches(a.ns, b.primary(), want); got != want {
			t.Errorf("under the policy of %s: reached %t", p.Groups[0].ID, got)
		}
	}
}
