package networkpolicy

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

func begin(l *lab) {
	l.Helper()
	l.in(l.cell, func() error { return l.policy.Begin("eth0") })
}

func (l *lab) update(u rules.Update) error {
	l.Helper()
	return inside(l.cell, func() error { return l.policy.Update(l.Context(), u) })
}

func (l *lab) mustUpdate(u rules.Update) {
	l.Helper()
	if err := l.update(u); err != nil {
		l.Fatal(err)
	}
}

// whole is a whole state.
func whole(revision string, r rules.Rules, sets map[string]rules.Change) rules.Update {
	for name, c := range sets {
		c.Whole = true
		sets[name] = c
	}
	return rules.Update{Revision: revision, Rules: &r, Sets: sets}
}

var open = whole("open", rules.Rules{}, nil)

func addresses(a ...netip.Addr) rules.Change {
	c := rules.Change{Kind: rules.Addresses}
	for _, a := range a {
		c.Add = append(c.Add, rules.Address(a))
	}
	return c
}

func tcp(first, last uint16) rules.Port {
	return rules.Port{Protocol: rules.TCP, First: first, Last: last}
}
func udp(first, last uint16) rules.Port {
	return rules.Port{Protocol: rules.UDP, First: first, Last: last}
}

// packet is a connection that is tried.
type packet struct {
	egress  bool
	network string
	peer    int // of peers
	port    uint16
}

func in(network string, peer int, port uint16) packet  { return packet{false, network, peer, port} }
func out(network string, peer int, port uint16) packet { return packet{true, network, peer, port} }

func (p packet) String() string {
	direction := "from"
	if p.egress {
		direction = "to"
	}
	return fmt.Sprintf("%s %d %s %s", p.network, p.port, direction, peers[p.peer])
}

func (l *lab) check(when string, want map[packet]bool) {
	l.Helper()
	for p, passes := range want {
		ns, from, to := l.vpc, peers[p.peer], podIP
		if p.egress {
			ns, from, to = l.pod, podIP, peers[p.peer]
		}
		if got := l.passes(ns, p.network, from, to, p.port, passes); got != passes {
			l.Errorf("%s: %s passes: %t, want %t\n%s", when, p, got, passes, l.ruleset())
		}
	}
}

// ruleset is the kernel's, for whoever must understand a failure.
func (l *lab) ruleset() (text string) {
	_ = inside(l.cell, func() error {
		out, err := exec.Command("nft", "list", "ruleset").CombinedOutput()
		text = string(out)
		return err
	})
	return text
}

// serveAll listens at the pod, and at each of the peers' addresses: over UDP
// an answer must come from the address that was asked.
func (l *lab) serveAll() {
	l.Helper()
	for _, port := range []uint16{80, 81, 90} {
		for _, network := range []string{"tcp", "udp"} {
			l.serve(l.pod, network, podIP, port)
			for _, p := range peers {
				l.serve(l.vpc, network, p, port)
			}
		}
	}
}

// Every kind of rule, by packets that pass and packets that do not.
func TestRules(t *testing.T) {
	l := newLab(t)
	l.serveAll()
	begin(l)
	cases := map[string]struct {
		reason string
		update rules.Update
		want   map[packet]bool
	}{
		"Open": {
			reason: "no policy selects the pod",
			update: open,
			want:   map[packet]bool{in("tcp", 0, 80): true, in("udp", 3, 81): true, out("tcp", 1, 80): true, out("udp", 0, 90): true},
		},
		"DenyIngress": {
			reason: "answers to the pod's own connections are no ingress",
			update: whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true}}, nil),
			want:   map[packet]bool{in("tcp", 0, 80): false, in("udp", 0, 80): false, out("tcp", 0, 80): true, out("udp", 0, 80): true},
		},
		"DenyEgress": {
			reason: "the pod's answers are no egress",
			update: whole("1", rules.Rules{Egress: rules.Direction{Isolated: true}}, nil),
			want:   map[packet]bool{in("tcp", 0, 80): true, in("udp", 0, 80): true, out("tcp", 0, 80): false, out("udp", 0, 80): false},
		},
		"Everybody": {
			reason: "a rule without peers is about all, on its ports",
			update: whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Ports: []rules.Port{tcp(80, 80), udp(81, 90)}}}}}, nil),
			want: map[packet]bool{
				in("tcp", 0, 80): true, in("tcp", 4, 80): true, in("tcp", 0, 81): false, in("udp", 0, 80): false,
				in("udp", 0, 81): true, in("udp", 0, 90): true,
			},
		},
		"AllPortsOfAProtocol": {
			reason: "a protocol without a port is all its ports",
			update: whole("1", rules.Rules{Egress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Ports: []rules.Port{udp(0, 65535)}}}}}, nil),
			want:   map[packet]bool{out("udp", 0, 80): true, out("udp", 1, 90): true, out("tcp", 0, 80): false},
		},
		"Addresses": {
			reason: "pods are known by their addresses, in both directions",
			update: whole("1", rules.Rules{
				Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "a"}}},
				Egress:  rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "b", Ports: []rules.Port{tcp(80, 81)}}}},
			}, map[string]rules.Change{"a": addresses(peers[0], peers[3]), "b": addresses(peers[1])}),
			want: map[packet]bool{
				in("tcp", 0, 80): true, in("udp", 3, 90): true, in("tcp", 1, 80): false, in("udp", 2, 80): false,
				out("tcp", 1, 80): true, out("tcp", 1, 81): true, out("tcp", 1, 90): false, out("udp", 1, 80): false, out("tcp", 0, 80): false,
			},
		},
		"Ranges": {
			reason: "a block without a part of it",
			update: whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "r", Ports: []rules.Port{tcp(80, 80)}}}}},
				map[string]rules.Change{"r": {Kind: rules.Ranges, Add: []rules.Member{
					{First: netip.MustParseAddr("10.98.0.0"), Last: peers[0]},
					{First: peers[2], Last: netip.MustParseAddr("10.98.0.255")},
					{First: peers[4], Last: netip.MustParseAddr("255.255.255.255")},
				}}}),
			want: map[packet]bool{
				in("tcp", 0, 80): true, in("tcp", 1, 80): false, in("tcp", 2, 80): true, in("tcp", 3, 80): false, in("tcp", 4, 80): true,
				in("tcp", 0, 81): false,
			},
		},
		"AllAddresses": {
			reason: "0.0.0.0/0 has no end",
			update: whole("1", rules.Rules{Egress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "r"}}}},
				map[string]rules.Change{"r": {Kind: rules.Ranges, Add: []rules.Member{
					{First: netip.MustParseAddr("0.0.0.0"), Last: netip.MustParseAddr("255.255.255.255")},
				}}}),
			want: map[packet]bool{out("tcp", 0, 80): true, out("udp", 4, 81): true},
		},
		"Endpoints": {
			reason: "a named port is another number at each peer",
			update: whole("1", rules.Rules{Egress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "e", Ports: []rules.Port{tcp(0, 65535)}}}}},
				map[string]rules.Change{"e": {Kind: rules.Endpoints, Add: []rules.Member{rules.Endpoint(peers[0], 80), rules.Endpoint(peers[1], 90)}}}),
			want: map[packet]bool{
				out("tcp", 0, 80): true, out("tcp", 0, 90): false, out("tcp", 1, 90): true, out("tcp", 1, 80): false,
				out("tcp", 2, 80): false, out("udp", 0, 80): false,
			},
		},
		"EmptySet": {
			reason: "peers of whom there are none are not everybody",
			update: whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "a"}}}}, map[string]rules.Change{"a": addresses()}),
			want:   map[packet]bool{in("tcp", 0, 80): false, out("tcp", 0, 80): true},
		},
	}
	for name, tc := range cases {
		l.mustUpdate(tc.update)
		l.check(name+" ("+tc.reason+")", tc.want)
	}
}

// The cell itself reaches its pod whatever the rules say, and the pod the cell.
func TestOwnCellAlwaysAllowed(t *testing.T) {
	l := newLab(t)
	l.serve(l.pod, "tcp", podIP, 80)
	l.serve(l.cell, "tcp", cellIP, 90)
	begin(l)
	if !l.passes(l.cell, "tcp", cellIP, podIP, 80, true) {
		t.Error("the kubelet cannot probe the pod of a closed cell")
	}
	if !l.passes(l.pod, "tcp", podIP, cellIP, 90, true) {
		t.Error("the pod cannot reach its own cell")
	}
}

// Nothing passes before the first rules, and what passes then follows each
// change, which touches only what it says.
func TestChanges(t *testing.T) {
	l := newLab(t)
	l.serveAll()
	begin(l)
	l.check("at boot", map[packet]bool{in("tcp", 0, 80): false, out("tcp", 0, 80): false, in("udp", 0, 80): false, out("udp", 0, 80): false})

	ingress := rules.Rules{Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "a", Ports: []rules.Port{tcp(80, 80)}}}}}
	l.mustUpdate(whole("1", ingress, map[string]rules.Change{"a": addresses(peers[0], peers[1])}))
	l.check("first rules", map[packet]bool{in("tcp", 0, 80): true, in("tcp", 1, 80): true, in("tcp", 2, 80): false})

	l.mustUpdate(rules.Update{From: "1", Revision: "2", Sets: map[string]rules.Change{"a": {
		Kind: rules.Addresses, Add: []rules.Member{rules.Address(peers[2])}, Remove: []rules.Member{rules.Address(peers[0])},
	}}})
	changed := map[packet]bool{in("tcp", 0, 80): false, in("tcp", 1, 80): true, in("tcp", 2, 80): true}
	l.check("members changed", changed)

	// Kip may repeat it, not knowing whether it arrived.
	err := l.update(rules.Update{From: "1", Revision: "2"})
	if !errors.Is(err, rules.ErrRevision) {
		t.Errorf("an update from an old revision: %v", err)
	}
	l.check("refused", changed)

	two := ingress
	two.Ingress.Allow = append(two.Ingress.Allow, rules.Allow{Peers: "b"})
	l.mustUpdate(rules.Update{From: "2", Revision: "3", Rules: &two, Sets: map[string]rules.Change{
		"b": {Kind: rules.Addresses, Whole: true, Add: []rules.Member{rules.Address(peers[3])}},
	}})
	l.check("another rule", map[packet]bool{in("tcp", 2, 80): true, in("udp", 3, 90): true, in("tcp", 0, 80): false})

	l.mustUpdate(rules.Update{From: "3", Revision: "4", Rules: &rules.Rules{
		Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "b"}}},
	}})
	l.check("a rule less", map[packet]bool{in("tcp", 2, 80): false, in("udp", 3, 90): true})
	if strings.Contains(l.ruleset(), "set a {") {
		t.Errorf("a set that no rule names is left\n%s", l.ruleset())
	}

	if err := l.update(rules.Update{From: "4", Revision: "5", Rules: &two}); err == nil {
		t.Error("rules that name an unknown set were taken")
	}
	l.check("nonsense refused", map[packet]bool{in("tcp", 2, 80): false, in("udp", 3, 90): true})

	l.mustUpdate(rules.Update{From: "4", Revision: "6", Rules: &rules.Rules{}})
	l.check("opened", map[packet]bool{in("tcp", 0, 80): true, out("udp", 0, 80): true})
}

// Connections end when the rule goes that allowed them, by whoever they were
// opened, and go on when it stays.
func TestConnectionsFollowTheRules(t *testing.T) {
	l := newLab(t)
	l.serveAll()
	begin(l)
	l.mustUpdate(open)
	toPod, err := l.dial(l.vpc, "tcp", peers[0], podIP, 80, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer toPod.Close()
	fromPod, err := l.dial(l.pod, "tcp", podIP, peers[0], 80, patience)
	if err != nil {
		t.Fatal(err)
	}
	defer fromPod.Close()

	l.mustUpdate(whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true}}, nil))
	if l.echoes(toPod, silence) {
		t.Error("a connection to the pod is still used after the policy denies it")
	}
	if !l.echoes(fromPod, patience) {
		t.Error("a connection of the pod ended for a rule of the other direction")
	}
	l.mustUpdate(whole("2", rules.Rules{Egress: rules.Direction{Isolated: true}}, nil))
	if l.echoes(fromPod, silence) {
		t.Error("a connection of the pod is still used after the policy denies it")
	}
}

// An agent that starts again leaves what is in force; an instance that starts
// again has the last rules, or is closed.
func TestRestarts(t *testing.T) {
	l := newLab(t)
	l.serveAll()
	begin(l)
	l.mustUpdate(whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "a"}}}},
		map[string]rules.Change{"a": addresses(peers[0])}))
	want := map[packet]bool{in("tcp", 0, 80): true, in("tcp", 1, 80): false, out("tcp", 1, 80): true}

	l.policy = l.newPolicy()
	begin(l)
	l.check("another agent", want)
	if err := l.update(rules.Update{From: "1", Revision: "2"}); !errors.Is(err, rules.ErrRevision) {
		t.Errorf("an agent that does not know what is in force took a change of it: %v", err)
	}

	flush := func() {
		l.in(l.cell, func() error {
			out, err := exec.Command("nft", "flush", "ruleset").CombinedOutput()
			if err != nil {
				return fmt.Errorf("%w: %s", err, out)
			}
			return nil
		})
	}
	flush()
	l.policy = l.newPolicy()
	begin(l)
	l.check("another boot", want)
	l.mustUpdate(rules.Update{From: "1", Revision: "2", Sets: map[string]rules.Change{"a": addresses(peers[1])}})
	l.check("changed after another boot", map[packet]bool{in("tcp", 0, 80): true, in("tcp", 1, 80): true, in("tcp", 2, 80): false})

	// Somebody on the cell removes the rules, and they are made anew, or with
	// the next change.
	flush()
	l.in(l.cell, func() error { l.policy.keep(); return nil })
	l.check("kept", map[packet]bool{in("tcp", 0, 80): true, in("tcp", 1, 80): true, in("tcp", 2, 80): false})
	flush()
	l.mustUpdate(rules.Update{From: "2", Revision: "3", Sets: map[string]rules.Change{
		"a": {Kind: rules.Addresses, Remove: []rules.Member{rules.Address(peers[0])}},
	}})
	l.check("made anew", map[packet]bool{in("tcp", 0, 80): false, in("tcp", 1, 80): true})

	flush()
	if err := os.WriteFile(l.file, []byte(`{"revision":"3"`), 0o600); err != nil {
		t.Fatal(err)
	}
	l.policy = l.newPolicy()
	begin(l)
	l.check("a file that cannot be read", map[packet]bool{in("tcp", 0, 80): false, out("tcp", 0, 80): false})
}

// A full disk keeps no rule from being in force, and leaves no older one behind.
func TestDiskFull(t *testing.T) {
	l := newLab(t)
	l.serveAll()
	begin(l)
	l.mustUpdate(open)
	if _, err := os.Stat(l.file); err != nil {
		t.Fatal(err)
	}
	// A directory in the way is an error that root gets too.
	if err := os.Mkdir(l.file+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	l.mustUpdate(whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true}}, nil))
	l.check("in force", map[packet]bool{in("tcp", 0, 80): false})
	if _, err := os.Stat(l.file); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the looser rules of before are still on the disk: %v", err)
	}
}

// Thousands of peers are one transaction like any other.
func TestManyPeers(t *testing.T) {
	l := newLab(t)
	l.serve(l.pod, "tcp", podIP, 80)
	begin(l)
	many := rules.Change{Kind: rules.Addresses}
	for a := netip.MustParseAddr("10.100.0.1"); len(many.Add) < 20000; a = a.Next() {
		many.Add = append(many.Add, rules.Address(a))
	}
	many.Add = append(many.Add, rules.Address(peers[0]))
	l.mustUpdate(whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{Peers: "a"}}}}, map[string]rules.Change{"a": many}))
	l.check("many", map[packet]bool{in("tcp", 0, 80): true, in("tcp", 1, 80): false})
	l.mustUpdate(rules.Update{From: "1", Revision: "2", Sets: map[string]rules.Change{"a": {
		Kind: rules.Addresses, Remove: many.Add[100:], Add: []rules.Member{rules.Address(peers[1])},
	}}})
	l.check("few", map[packet]bool{in("tcp", 0, 80): false, in("tcp", 1, 80): true})
}

// Without nftables it is all or nothing.
func TestWithoutNftables(t *testing.T) {
	l := newLab(t)
	l.serveAll()
	l.serve(l.cell, "tcp", cellIP, 91)
	l.policy.enforcer = routing{}
	l.in(l.cell, func() error { return l.policy.begin() })
	close(l.policy.begun)
	closed := map[packet]bool{in("tcp", 0, 80): false, out("tcp", 0, 80): false}
	l.check("at boot", closed)
	if !l.passes(l.cell, "tcp", cellIP, podIP, 80, true) || !l.passes(l.vpc, "tcp", peers[0], cellIP, 91, true) {
		t.Error("the cell itself is cut off")
	}
	for range 2 {
		l.mustUpdate(open)
		l.check("open", map[packet]bool{in("tcp", 0, 80): true, out("tcp", 0, 80): true})
	}
	some := whole("1", rules.Rules{Ingress: rules.Direction{Isolated: true, Allow: []rules.Allow{{}}}}, nil)
	for range 2 {
		if err := l.update(some); !errors.Is(err, errPartly) {
			t.Errorf("rules that cannot be enforced: %v", err)
		}
		l.check("isolated", closed)
	}
	// The next agent finds nftables after all, and can do what was asked.
	l.policy = l.newPolicy()
	begin(l)
	l.check("the next agent", map[packet]bool{in("tcp", 0, 80): true, out("tcp", 0, 80): true})
	l.mustUpdate(whole("2", rules.Rules{Ingress: rules.Direction{Isolated: true}}, nil))
	l.check("the next agent isolates", map[packet]bool{in("tcp", 0, 80): false, out("tcp", 0, 80): true})
}
