package localcluster

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"path/filepath"
	"time"
)

const (
	serviceCIDR   = "10.96.0.0/16"
	serviceIP     = "10.96.0.1"
	apiserverPort = 6443
	clusterDomain = "cluster.local"
)

// The names of the processes, as users give them to logs and as tests kill
// them.
const (
	Etcd              = "etcd"
	APIServer         = "kube-apiserver"
	ControllerManager = "kube-controller-manager"
	Scheduler         = "kube-scheduler"
	Registry          = "registry"
	CoreDNS           = "coredns"
	MetricsServer     = "metrics-server"
	EC2Local          = "ec2local"
	Kip               = "kip"
	NFSServer         = "nfs-server"
	ImageCache        = "image-cache"
)

// Components are the names of all processes in the order in which they start.
var Components = []string{EC2Local, Etcd, APIServer, ControllerManager, Scheduler, Registry, CoreDNS, MetricsServer, NFSServer, Kip, ImageCache}

func (c *Cluster) apiserverURL() string {
	return fmt.Sprintf("https://%s:%d", c.settings.host(), apiserverPort)
}

func (c *Cluster) etcd() process {
	s := c.settings
	client := fmt.Sprintf("http://127.0.0.1:%d", s.EtcdPort)
	peer := fmt.Sprintf("http://127.0.0.1:%d", s.EtcdPeerPort)
	return process{
		Name: Etcd, Path: c.tool("etcd"),
		Args: []string{
			"--name=default", "--data-dir=" + c.path("etcd"),
			"--listen-client-urls=" + client, "--advertise-client-urls=" + client,
			"--listen-peer-urls=" + peer, "--initial-advertise-peer-urls=" + peer, "--initial-cluster=default=" + peer,
			"--log-level=warn",
		},
		Ready: answers(client + "/health"),
	}
}

func (c *Cluster) apiserver() process {
	s, pki := c.settings, c.pki
	p := process{
		Name: APIServer, Path: c.tool("kube-apiserver"),
		Args: []string{
			fmt.Sprintf("--etcd-servers=http://127.0.0.1:%d", s.EtcdPort),
			"--bind-address=" + s.host().String(), "--advertise-address=" + s.host().String(),
			fmt.Sprintf("--secure-port=%d", apiserverPort),
			"--tls-cert-file=" + pki.path("apiserver.crt"), "--tls-private-key-file=" + pki.path("apiserver.key"),
			"--client-ca-file=" + pki.path("ca.crt"),
			"--kubelet-client-certificate=" + pki.path("apiserver-kubelet-client.crt"),
			"--kubelet-client-key=" + pki.path("apiserver-kubelet-client.key"),
			"--kubelet-preferred-address-types=InternalIP",
			"--requestheader-client-ca-file=" + pki.path("front-proxy-ca.crt"),
			"--requestheader-allowed-names=front-proxy-client",
			"--requestheader-username-headers=X-Remote-User", "--requestheader-group-headers=X-Remote-Group",
			"--requestheader-extra-headers-prefix=X-Remote-Extra-",
			"--proxy-client-cert-file=" + pki.path("front-proxy-client.crt"), "--proxy-client-key-file=" + pki.path("front-proxy-client.key"),
			// The host has no kube-proxy: to metrics-server, by its endpoint.
			"--enable-aggregator-routing=true",
			"--service-account-issuer=" + tokenIssuer,
			"--service-account-key-file=" + pki.path("service-accounts.pub"),
			"--service-account-signing-key-file=" + pki.path("service-accounts.key"),
			"--service-cluster-ip-range=" + serviceCIDR,
			"--authorization-mode=Node,RBAC", "--enable-admission-plugins=NodeRestriction",
			"--allow-privileged=true", "--anonymous-auth=true",
			// Without it nothing ends watches, and shutting down waits a minute for
			// their clients, some of which go on running.
			"--shutdown-watch-termination-grace-period=2s",
		},
		Ready: answers(c.apiserverURL() + "/readyz"),
		Grace: 15 * time.Second,
	}
	if c.Audit {
		p.Args = append(p.Args, "--audit-policy-file="+c.path(auditPolicyFile), "--audit-log-path="+c.AuditPath(), "--audit-log-maxsize=4096")
	}
	return p
}

// auditPolicyFile says what the API server writes down: who asked for what, and
// when it had answered.
const auditPolicyFile = "audit-policy.json"

func (c *Cluster) writeAuditPolicy() error {
	policy, err := json.Marshal(object{
		"apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": []string{"RequestReceived", "ResponseStarted"},
		"rules": []object{
			{"level": "Metadata", "users": []string{"system:serviceaccount:" + kipNamespace + ":" + kipAccount}},
			{"level": "None"},
		},
	})
	if err != nil {
		return err
	}
	return writeFile(c.path(auditPolicyFile), policy, 0o600)
}

// AuditPath is where the API server writes down, in one line of JSON for each
// request, what Kip asks of it.
func (c *Cluster) AuditPath() string { return filepath.Join(c.processes.logDir, "audit.log") }

func (c *Cluster) controllerManager() process {
	kubeconfig := c.path("controller-manager.kubeconfig")
	return process{
		Name: ControllerManager, Path: c.tool("kube-controller-manager"),
		Args: []string{
			"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.settings.KCMPort),
			"--service-account-private-key-file=" + c.pki.path("service-accounts.key"), "--root-ca-file=" + c.pki.path("ca.crt"),
			"--cluster-signing-cert-file=" + c.pki.path("ca.crt"), "--cluster-signing-key-file=" + c.pki.path("ca.key"),
			"--use-service-account-credentials=true", "--leader-elect=false",
		},
		Ready: answers(fmt.Sprintf("https://127.0.0.1:%d/healthz", c.settings.KCMPort)),
	}
}

func (c *Cluster) scheduler() process {
	kubeconfig := c.path("scheduler.kubeconfig")
	return process{
		Name: Scheduler, Path: c.tool("kube-scheduler"),
		Args: []string{
			"--kubeconfig=" + kubeconfig, "--authentication-kubeconfig=" + kubeconfig, "--authorization-kubeconfig=" + kubeconfig,
			"--bind-address=127.0.0.1", fmt.Sprintf("--secure-port=%d", c.settings.SchedPort), "--leader-elect=false",
		},
		Ready: answers(fmt.Sprintf("https://127.0.0.1:%d/healthz", c.settings.SchedPort)),
	}
}

// answers is a Ready that wants a 2xx from url. It asks whether the process
// serves, not who it is, so certificates are not checked.
func answers(url string) func(context.Context) error {
	client := &http.Client{Transport: &http.Transport{
		TLSClientConfig:   &tls.Config{InsecureSkipVerify: true},
		DisableKeepAlives: true,
	}}
	return func(ctx context.Context) error {
		req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
		if err != nil {
			return err
		}
		resp, err := client.Do(req)
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		if resp.StatusCode/100 != 2 {
			text, _ := io.ReadAll(io.LimitReader(resp.Body, 256))
			return fmt.Errorf("%s answers %s: %s", url, resp.Status, text)
		}
		return nil
	}
}
