package localcluster

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"net/http"
	"os"
	"text/template"
	"time"
)

const (
	registryPort = 5000
	dnsPort      = 53
	kubeletPort  = 10250
)

// tokenIssuer is who issues the tokens of service accounts. ec2local knows its keys, as AWS knows those of an EKS cluster,
// so that a service account can stand for a role of the account.
const tokenIssuer = "https://kubernetes.default.svc." + clusterDomain

// ec2 is the cloud. It makes the cells' network, so it comes before everything
// that listens on the machine's address in it.
func (c *Cluster) ec2() process {
	p := process{
		Name: EC2Local, Path: c.bin("ec2local"),
		Args: []string{
			"serve", "--state=" + c.path("ec2"), fmt.Sprintf("--listen=127.0.0.1:%d", c.settings.EC2Port),
			// For what runs on the ordinary node.
			fmt.Sprintf("--listen=%s:%d", c.settings.host(), c.settings.EC2Port),
			"--region=" + region, "--vpc-cidr=" + c.settings.VPC.String(), "--cluster=" + c.settings.Name,
			"--images=" + c.path("images"), "--credentials=" + c.path("ec2-credentials.json"), "--boot-delay=" + c.BootDelay.String(),
			fmt.Sprintf("--throttle=%t", !c.Unthrottled), fmt.Sprintf("--hollow-cells=%t", c.Cells == CellsHollow),
			"--ecr-images=http://" + c.registryAddress(),
			"--eks-clusters=" + c.settings.Name + "=" + tokenIssuer,
			"--issuer-keys=" + tokenIssuer + "=" + c.pki.path("service-accounts.pub"),
		},
		Ready: answers(c.ec2URL() + "/healthz"),
	}
	if c.ImageCache && !c.hasNFS() {
		p.Args = append(p.Args, "--share="+shareInCells+"="+c.shareDir())
	}
	return p
}

// ec2URL is ec2local's for processes of this machine, ec2HostURL for pods.
func (c *Cluster) ec2URL() string { return fmt.Sprintf("http://127.0.0.1:%d", c.settings.EC2Port) }
func (c *Cluster) ec2HostURL() string {
	return fmt.Sprintf("http://%s:%d", c.settings.host(), c.settings.EC2Port)
}

// vpcID asks ec2local for its only VPC.
func (c *Cluster) vpcID(ctx context.Context) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, c.ec2URL()+"/_ec2local/vpc", nil)
	if err != nil {
		return "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return "", fmt.Errorf("asking ec2local for its VPC: %w", err)
	}
	defer resp.Body.Close()
	var vpc struct {
		ID string `json:"vpcId"`
	}
	if err := json.NewDecoder(resp.Body).Decode(&vpc); err != nil {
		return "", fmt.Errorf("asking ec2local for its VPC: it answered %s: %w", resp.Status, err)
	}
	if vpc.ID == "" {
		return "", fmt.Errorf("asking ec2local for its VPC: it answered %s and names none", resp.Status)
	}
	return vpc.ID, nil
}

func (c *Cluster) writeCredentials() error {
	data, err := json.Marshal(map[string]string{c.settings.AccessKeyID: c.settings.SecretAccessKey})
	if err != nil {
		return err
	}
	return writeFile(c.path("ec2-credentials.json"), data, 0o600)
}

func (c *Cluster) registryAddress() string {
	return fmt.Sprintf("%s:%d", c.settings.host(), registryPort)
}

func (c *Cluster) registry() process {
	return process{
		Name: Registry, Path: c.tool("registry"),
		Args:  []string{"serve", c.path("registry.yaml")},
		Ready: answers("http://" + c.registryAddress() + "/v2/"),
		Watch: []string{c.path("registry.yaml")},
	}
}

var registryConfig = template.Must(template.New("registry.yaml").Parse(`version: 0.1
log: {level: warn, accesslog: {disabled: {{not .Log}}}}
storage:
  filesystem: {rootdirectory: {{.Root}}}
  delete: {enabled: true}
http:
  addr: {{.Address}}
`))

func (c *Cluster) writeRegistryConfig() error {
	return writeTemplate(c.path("registry.yaml"), registryConfig, map[string]any{
		"Root": c.path("registry"), "Address": c.registryAddress(),
		// What cells pull all the same.
		"Log": c.ImageCache,
	})
}

func (c *Cluster) dns() process {
	return process{
		Name: CoreDNS, Path: c.tool("coredns"),
		Args:  []string{"-conf", c.path("Corefile")},
		Ready: answers(fmt.Sprintf("http://%s:%d/ready", c.settings.host(), dnsReadyPort)),
		Watch: []string{c.path("Corefile")},
	}
}

const dnsReadyPort = 8181

// There is no forward plugin: on a machine without a way out, a name outside
// the cluster is better refused at once than waited for.
var corefile = template.Must(template.New("Corefile").Parse(`.:{{.Port}} {
  bind {{.Host}}
  errors
  ready {{.Host}}:{{.ReadyPort}}
  kubernetes {{.Domain}} in-addr.arpa {
    kubeconfig {{.Kubeconfig}}
    pods insecure
    ttl 5
  }
  loadbalance
}
`))

func (c *Cluster) writeCorefile() error {
	return writeTemplate(c.path("Corefile"), corefile, map[string]any{
		"Port": dnsPort, "Host": c.settings.host(), "ReadyPort": dnsReadyPort, "Domain": clusterDomain,
		"Kubeconfig": c.path("coredns.kubeconfig"),
	})
}

func (c *Cluster) kip() process {
	host := c.settings.host().String()
	return process{
		Name: Kip, Path: c.bin("kip"),
		Args: []string{
			"run", "--provider-config=" + c.path("provider.yaml"), "--kubeconfig=" + c.path("kip.kubeconfig"),
			"--cluster-name=" + c.settings.Name, "--namespace=kip", "--node-name=" + NodeName, "--node-ip=" + host,
			fmt.Sprintf("--kubelet-listen=%s:%d", host, kubeletPort),
			fmt.Sprintf("--metrics-listen=127.0.0.1:%d", c.settings.MetricsPort), "--health-listen=0",
			"--data-dir=" + c.path("kip"), fmt.Sprintf("--disable-taint=%t", c.DisableTaint),
		},
		Env: []string{
			"AWS_ROLE_ARN=" + roleARN, "AWS_WEB_IDENTITY_TOKEN_FILE=" + c.path("kip-aws.token"), "AWS_ENDPOINT_URL=" + c.ec2URL(),
		},
		Watch: []string{c.path("provider.yaml")},
		Ready: func(ctx context.Context) error {
			conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", net.JoinHostPort(host, fmt.Sprint(kubeletPort)))
			if err != nil {
				return err
			}
			return conn.Close()
		},
		Grace: 20 * time.Second,
	}
}

// ecrHost is the account's private registry.
const ecrHost = accountID + ".dkr.ecr." + region + ".amazonaws.com"

// NodeName is the virtual node.
const NodeName = "kip-provider-0"

var providerConfig = template.Must(template.New("provider.yaml").Parse(`# Written by kip-local; docs/configuration.md explains the keys.
cloud:
  aws:
    region: {{.Region}}
    endpointURL: {{.EC2}}
    vpcID: {{.VPC}}
kubelet:
  capacity: {nvidia.com/gpu: 16}
{{- if .Hollow}}
  pods: 20000
{{- end}}
  clusterDNS: ["{{.Host}}"]
  clusterDomain: {{.Domain}}
cells:
{{- if .Software}}
  software: [{{.Software}}]
{{- else}}
  bootImageSpec: {owners: self, filters: "name={{.Image}}*"}
{{- end}}
{{- if .MayBeEmulated}}
  # A processor that another one imitates is slow, not dead.
  bootTimeout: 20m
  healthcheck: {status: {healthyTimeout: 600}}
{{- end}}
  privateIPOnly: true
  defaultVolumeSize: 10Gi
{{- if .ImageCache}}
  imageCache: {endpoint: {{.ImageCache}}}
{{- end}}
  registryMirrors:
  - hosts: [_default]
    endpoint: http://{{.Registry}}
  # The account's ECR, which wants a login.
  - hosts: [{{.ECR}}]
    endpoint: {{.ECREndpoint}}
`))

func (c *Cluster) writeProviderConfig(vpcID, endpoint string) error {
	return writeTemplate(c.path("provider.yaml"), providerConfig, map[string]any{
		"Region": region, "EC2": endpoint, "VPC": vpcID, "Domain": clusterDomain,
		"Host": c.settings.host(), "Registry": c.registryAddress(), "ECR": ecrHost, "ECREndpoint": c.ec2HostURL(), "Image": c.imagePrefix(), "MayBeEmulated": c.Cells.Virtual(),
		"Software": c.software, "Hollow": c.Cells == CellsHollow, "ImageCache": c.cacheEndpoint(),
	})
}

func writeTemplate(path string, t *template.Template, data any) error {
	f, err := os.OpenFile(path+".tmp", os.O_CREATE|os.O_TRUNC|os.O_WRONLY, 0o600)
	if err != nil {
		return err
	}
	err = t.Execute(f, data)
	if closeErr := f.Close(); err == nil {
		err = closeErr
	}
	if err != nil {
		return fmt.Errorf("writing %s: %w", path, err)
	}
	return os.Rename(path+".tmp", path)
}
