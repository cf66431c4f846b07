package config

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/elotl/kip/v2/internal/instancetype"
)

// Load reads and checks a provider.yaml. Errors name the file, the key and
// what is allowed; all that is wrong is reported at once.
func Load(path string) (*Config, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the provider configuration: %w", err)
	}
	c, err := Parse(data)
	if err != nil {
		return nil, fmt.Errorf("provider configuration %s: %w", path, err)
	}
	return c, nil
}

// Parse is Load on bytes.
func Parse(data []byte) (*Config, error) {
	js, err := yaml.YAMLToJSONStrict(data)
	if err != nil {
		return nil, err
	}
	// encoding/json would take a key in any case and say nothing of its path.
	c := &Config{}
	unknown, err := json.UnmarshalStrict(js, c)
	if err != nil {
		return nil, err
	}
	for i, err := range unknown {
		advice := "remove the key or correct its name (docs/configuration.md lists all keys)"
		for key, why := range gone {
			if strings.Contains(err.Error(), `"`+key+`"`) {
				advice = why + ": remove the key"
			}
		}
		unknown[i] = fmt.Errorf("%w: %s", err, advice)
	}
	if len(unknown) > 0 {
		return nil, errors.Join(unknown...)
	}
	c.setDefaults()
	return c, c.validate()
}

// gone are keys of Kip 1 that have nothing to say any more, with the reason.
var gone = map[string]string{
	"cells.cellConfig":             "it configured Kip 1's image cache, which is cells.imageCache.endpoint now",
	"cells.useCloudParameterStore": "it kept the private keys of Kip 1's cells out of user data, and now there are none in it",
}

func (c *Config) setDefaults() {
	quantity := func(q *resource.Quantity, value string) {
		if q.IsZero() {
			*q = resource.MustParse(value)
		}
	}
	text := func(s *string, value string) {
		if *s == "" {
			*s = value
		}
	}
	quantity(&c.Kubelet.CPU, defaultCPU)
	quantity(&c.Kubelet.Memory, defaultMemory)
	quantity(&c.Kubelet.Pods, defaultPods)
	quantity(&c.Cells.DefaultVolumeSize, defaultVolumeSize)
	text(&c.Kubelet.ClusterDomain, defaultClusterDomain)
	text(&c.Cells.DefaultLaunchType, defaultLaunchType)
	text(&c.Cells.Nametag, defaultNametag)
	text(&c.Cells.SandboxImage, defaultSandboxImage)
	if len(c.Cells.Architectures) == 0 {
		c.Cells.Architectures = []string{instancetype.AMD64}
	}
	if a := c.Cloud.AWS; a != nil && a.Marketplace != nil {
		text(&a.Marketplace.Dimension, defaultDimension)
		if a.Marketplace.PublicKeyVersion == 0 {
			a.Marketplace.PublicKeyVersion = 1
		}
	}
	if c.Cells.BootTimeout.Duration == 0 {
		c.Cells.BootTimeout.Duration = defaultBootTimeout
	}
	if c.Cells.PowerOffAfter == nil {
		c.Cells.PowerOffAfter = &metav1.Duration{Duration: defaultPowerOffAfter}
	}
	c.Cells.setHealthDefaults()
}

func (c *Config) validate() error {
	var errs []error
	bad := func(key, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: %s", key, fmt.Sprintf(format, args...)))
	}

	if c.Cloud.AWS == nil {
		bad("cloud", "name the cloud: cloud.aws with at least a region")
	} else {
		c.Cloud.AWS.validate(bad)
	}
	for name, q := range c.Kubelet.Capacity {
		if q.Sign() < 0 {
			bad("kubelet.capacity."+string(name), "%s is negative", q.String())
		}
	}
	for _, ip := range c.Kubelet.ClusterDNS {
		if _, err := netip.ParseAddr(ip); err != nil {
			bad("kubelet.clusterDNS", "%q is not an IP address", ip)
		}
	}
	for _, cidr := range c.Cells.ExtraCIDRs {
		// EC2 would take 10.1.2.3/8 for 10.0.0.0/8, and Kip would then remove a
		// rule that it does not know.
		if p, err := netip.ParsePrefix(cidr); err != nil || !p.Addr().Is4() || p != p.Masked() {
			bad("cells.extraCIDRs", "%q is not an IPv4 network such as 10.0.0.0/8", cidr)
		}
	}
	if c.Cells.DefaultVolumeSize.Cmp(resource.MustParse("1Gi")) < 0 {
		bad("cells.defaultVolumeSize", "%s is less than 1Gi", c.Cells.DefaultVolumeSize.String())
	}
	if _, ok := instancetype.CapacityTypes(c.Cells.DefaultLaunchType); !ok {
		bad("cells.defaultLaunchType", "%q is not possible: it is %s", c.Cells.DefaultLaunchType, instancetype.LaunchTypes)
	}
	for i, a := range c.Cells.Architectures {
		if a != instancetype.AMD64 && a != instancetype.ARM64 || slices.Contains(c.Cells.Architectures[:i], a) {
			bad("cells.architectures", "%q is not possible: list amd64, arm64 or both, each once", a)
		}
	}
	if c.Cells.BootTimeout.Duration < 0 {
		bad("cells.bootTimeout", "must not be negative")
	}
	if after := c.Cells.PowerOffAfter.Duration; after != 0 && after < minPowerOffAfter {
		bad("cells.powerOffAfter", "%s is less than %s, and not 0, which means never", after, minPowerOffAfter)
	}
	c.Cells.validateHealth(bad)
	c.Cells.validateSoftware(bad)
	if cache := c.Cells.ImageCache; cache != nil {
		server, path, remote := strings.Cut(cache.Endpoint, ":/")
		if !remote {
			path = server
		}
		if server == "" || !remote && !strings.HasPrefix(path, "/") || strings.ContainsAny(cache.Endpoint, " ,\n") {
			bad("cells.imageCache.endpoint", "%q is neither an NFS server and a path, such as fs-92e61897.efs.us-west-2.amazonaws.com:/, nor a directory of cells, such as /srv/images", cache.Endpoint)
		} else if strings.Contains("/"+path+"/", "/../") {
			bad("cells.imageCache.endpoint", "%q has .. in its path", cache.Endpoint)
		}
	}
	c.Cells.Limits.validate(bad)
	c.Cells.validateStandby(bad)
	for i, m := range c.Cells.RegistryMirrors {
		key := fmt.Sprintf("cells.registryMirrors[%d]", i)
		if u, err := url.Parse(m.Endpoint); err != nil || u.Host == "" || (u.Scheme != "http" && u.Scheme != "https") {
			bad(key+".endpoint", "%q is not an http or https URL", m.Endpoint)
		}
		if len(m.Hosts) == 0 {
			bad(key+".hosts", "name at least one registry host, or _default")
		}
	}
	return errors.Join(errs...)
}

// productCode is what AWS Marketplace accepts as one.
var productCode = regexp.MustCompile(`^[-a-zA-Z0-9/=:_.@]{1,255}$`)

func (a *AWS) validate(bad func(key, format string, args ...any)) {
	if a.Region == "" {
		bad("cloud.aws.region", "is required, for example us-west-2")
	}
	if (a.AccessKeyID == "") != (a.SecretAccessKey == "") {
		bad("cloud.aws", "accessKeyID and secretAccessKey go together; give both or neither")
	}
	if a.VPCID == "" && a.SubnetID == "" {
		bad("cloud.aws", "give subnetID, or vpcID to use all of its subnets")
	}
	if _, err := ParseSubnets(a.SubnetID); err != nil {
		bad("cloud.aws.subnetID", "%v", err)
	}
	if m := a.Marketplace; m != nil {
		if !productCode.MatchString(m.ProductCode) {
			bad("cloud.aws.marketplace.productCode", "%q is not the code of a product", m.ProductCode)
		}
		if m.PublicKeyVersion < 1 {
			bad("cloud.aws.marketplace.publicKeyVersion", "%d is less than 1", m.PublicKeyVersion)
		}
	}
	if a.EndpointURL != "" {
		if u, err := url.Parse(a.EndpointURL); err != nil || u.Host == "" {
			bad("cloud.aws.endpointURL", "%q is not a URL", a.EndpointURL)
		}
	}
}
