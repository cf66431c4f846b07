package e2e

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strings"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// What pods on cells find in the cluster's DNS, are found by there, and have in
// their own files of names.
func TestDNS(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Service, metadata: {name: web}, spec: {selector: {app: peer}, ports: [{name: http, port: 80, targetPort: 8080}]}}
- {apiVersion: v1, kind: Service, metadata: {name: peers}, spec: {clusterIP: None, selector: {app: peer}, ports: [{name: http, port: 8080}]}}
- {apiVersion: v1, kind: Service, metadata: {name: alias}, spec: {type: ExternalName, externalName: web.` + s.name + `.svc.cluster.local}}
`)
	one := serving("one", "peer")
	one.Spec.Hostname, one.Spec.Subdomain = "first", "peers"
	one.Spec.DNSConfig = &corev1.PodDNSConfig{Searches: []string{"default.svc.cluster.local"}, Options: []corev1.PodDNSConfigOption{{Name: "ndots", Value: ptr.To("3")}}}
	one.Spec.Containers = append(one.Spec.Containers, shell("shell", forever))
	s.create(one)

	two := newPod("two", shell("shell", forever))
	two.Labels = map[string]string{"app": "peer"}
	two.Spec.Hostname, two.Spec.Subdomain, two.Spec.SetHostnameAsFQDN = "second", "peers", ptr.To(true)
	two.Spec.DNSPolicy = corev1.DNSNone
	two.Spec.DNSConfig = &corev1.PodDNSConfig{
		Nameservers: []string{"192.0.2.53"}, Searches: []string{"example.com", "example.org"},
		Options: []corev1.PodDNSConfigOption{{Name: "timeout", Value: ptr.To("1")}},
	}
	two.Spec.HostAliases = []corev1.HostAlias{{IP: "192.0.2.7", Hostnames: []string{"seven", "seven.example.com"}}}
	s.create(two)

	plain := newPod("plain", shell("shell", forever))
	plain.Spec.DNSPolicy = corev1.DNSDefault
	s.create(plain)

	host := newPod("host", shell("shell", forever))
	host.Spec.HostNetwork, host.Spec.DNSPolicy = true, corev1.DNSClusterFirstWithHostNet
	s.create(host)

	pods := map[string]*corev1.Pod{}
	for _, name := range []string{"one", "two", "plain", "host"} {
		pods[name] = s.awaitReady(name)
	}
	ips := map[string]string{}
	for name, pod := range pods {
		ips[name] = pod.Status.PodIP
	}
	both := []string{ips["one"], ips["two"]}
	slices.Sort(both)
	zone := s.name + ".svc.cluster.local"

	for what, c := range map[string]struct {
		kind, name string
		want       []string
	}{
		"a Service":                         {"host", "web", []string{s.service("web").Spec.ClusterIP}},
		"a Service with its namespace":      {"host", "web." + s.name, []string{s.service("web").Spec.ClusterIP}},
		"another namespace's, by dnsConfig": {"host", "kubernetes", []string{"10.96.0.1"}},
		"a headless Service":                {"host", "peers", both},
		"a pod by hostname and subdomain":   {"host", "second.peers", []string{ips["two"]}},
		"itself so":                         {"host", "first.peers." + zone, []string{ips["one"]}},
		"SRV of a Service":                  {"srv", "_http._tcp.web." + zone, []string{"web." + zone + ".:80"}},
		"SRV of a headless Service":         {"srv", "_http._tcp.peers." + zone, []string{"first.peers." + zone + ".:8080", "second.peers." + zone + ".:8080"}},
		"the name of a Service's address":   {"addr", s.service("web").Spec.ClusterIP, []string{"web." + zone + "."}},
		"the names of a pod's address":      {"addr", ips["two"], []string{strings.ReplaceAll(ips["two"], ".", "-") + ".web." + zone + ".", "second.peers." + zone + "."}},
		"an ExternalName":                   {"cname", "alias", []string{"web." + zone + "."}},
		"a pod's own record":                {"host", strings.ReplaceAll(ips["two"], ".", "-") + "." + s.name + ".pod.cluster.local", []string{ips["two"]}},
	} {
		s.eventually(what, func(context.Context) error {
			out, code := s.tryKubectl("", "exec", "one", "-c", "server", "--", "/testimage", "lookup", c.kind, c.name)
			if code != 0 {
				return errors.New(out)
			}
			if got := strings.Fields(out); !slices.Equal(got, c.want) {
				return fmt.Errorf("%s %s: %q, want %q", c.kind, c.name, got, c.want)
			}
			return nil
		})
	}
	if out, code := s.tryKubectl("", "exec", "one", "-c", "server", "--", "/testimage", "lookup", "host", "nobody."+zone); code == 0 || !strings.Contains(out, "no such host") {
		t.Errorf("a name that does not exist: code %d, %s", code, out)
	}

	// The machine's own file is what a pod with policy Default gets.
	machines := string(machineOf(t, s.cellOf(pods["plain"])).read(t, "/etc/resolv.conf"))
	api, err := url.Parse(shared.config.Host) // CoreDNS listens at the API server's address
	if err != nil {
		t.Fatal(err)
	}
	server := "nameserver " + api.Hostname() + "\n"
	cluster := "search " + zone + " svc.cluster.local cluster.local"
	for what, c := range map[string]struct{ pod, command, want string }{
		"resolv.conf by ClusterFirst and dnsConfig": {"one", "cat /etc/resolv.conf", cluster + " default.svc.cluster.local\n" + server + "options ndots:3\n"},
		"resolv.conf by None":                       {"two", "cat /etc/resolv.conf", "search example.com example.org\nnameserver 192.0.2.53\noptions timeout:1\n"},
		"resolv.conf by Default":                    {"plain", "cat /etc/resolv.conf", machines},
		"resolv.conf in the cell's network":         {"host", "cat /etc/resolv.conf", cluster + "\n" + server + "options ndots:5\n"},
		"hostname":                                  {"one", "hostname", "first\n"},
		"hostname -f":                               {"one", "hostname -f", "first.peers." + zone + "\n"},
		"setHostnameAsFQDN":                         {"two", "hostname", "second.peers." + zone + "\n"},
		"the pod's own line in /etc/hosts":          {"one", "grep first /etc/hosts", ips["one"] + "\tfirst.peers." + zone + "\tfirst\n"},
		"hostAliases":                               {"two", "grep 192.0.2.7 /etc/hosts", "192.0.2.7\tseven\tseven.example.com\n"},
		"no name but the pod's without hostname":    {"plain", "hostname", "plain\n"},
	} {
		if got := s.kubectl("exec", c.pod, "-c", "shell", "--", "sh", "-c", c.command); got != c.want {
			t.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}
