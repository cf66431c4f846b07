package aws

import (
	"cmp"
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/credentials/stscreds"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/prometheus/client_golang/prometheus"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/instancetype"
)

// attemptTimeout bounds one HTTP exchange. RunInstances answers within a few
// seconds; when it did not, asking again with the same token is better than
// waiting.
const attemptTimeout = 20 * time.Second

// Config is what a Provider needs from outside.
type Config struct {
	Region string
	// EndpointURL replaces the region's EC2 endpoint; InsecureTLSSkipVerify
	// accepts any certificate of it.
	EndpointURL           string
	InsecureTLSSkipVerify bool

	// AccessKeyID and SecretAccessKey may both be empty: then the SDK's default
	// chain finds credentials (on EKS, the role of the service account).
	AccessKeyID     string
	SecretAccessKey string

	// ControllerID marks everything that is ours: see cloudprovider.ControllerID.
	ControllerID string
	// Nametag is the value of the tag KipNametag and the beginning of
	// instances' names.
	Nametag string

	// SubnetIDs are where cells may be launched, or SubnetTags are what those
	// subnets carry: each key with one of its values, in which * and ? stand
	// for any. Without either all subnets of the VPC are. Subnets that are not
	// named by ID are left out if they are in a Local Zone or on an Outpost,
	// which have few types at other prices. VPCID defaults to that of the
	// subnets, then to the account's default or only VPC.
	VPCID      string
	SubnetIDs  []string
	SubnetTags map[string][]string

	Image ImageSpec

	// DefaultVolumeGiB is the size of root volumes of cells that name none; a
	// larger image wins over it.
	DefaultVolumeGiB int32
	// PrivateIPOnly: cells get no public address unless they ask for one.
	PrivateIPOnly bool
	// ExtraCIDRs may reach cells besides the VPC's own networks.
	ExtraCIDRs []string
	// ExtraSecurityGroups are IDs of groups that every cell gets.
	ExtraSecurityGroups []string
	// InstanceProfile is the ARN or name of the profile of cells that name
	// none; may be empty.
	InstanceProfile string

	// Catalogue tells burstable instance types.
	Catalogue *instancetype.Catalogue

	// Denied is told of every request that EC2 denied Kip the right for: the
	// action that the right is for, and EC2's sentence. May be nil. It must not
	// block.
	Denied func(action, message string)

	Clock   clock.Clock
	Metrics prometheus.Registerer // may be nil
	Logger  *slog.Logger
}

// Provider implements cloudprovider.Provider, ZoneLister, ArchitectureLister, Router and
// RegistryAuthorizer on EC2 and ECR. It starts no goroutines and is safe for
// concurrent use.
type Provider struct {
	cfg   Config
	ec2   api
	calls *calls
	log   *slog.Logger
	nets  networks
	imgs  images
	grp   securityGroup
	rts   routing
	regs  registries
	own   own
	ends  ends

	routed routed
}

var (
	_ cloudprovider.Provider           = (*Provider)(nil)
	_ cloudprovider.ZoneLister         = (*Provider)(nil)
	_ cloudprovider.ArchitectureLister = (*Provider)(nil)
	_ cloudprovider.Pacer              = (*Provider)(nil)
	_ cloudprovider.Router             = (*Provider)(nil)
	_ cloudprovider.RegistryAuthorizer = (*Provider)(nil)
	_ cloudprovider.HealthReporter     = (*Provider)(nil)
	_ cloudprovider.ConsoleReader      = (*Provider)(nil)
	_ cloudprovider.Sweeper            = (*Provider)(nil)
	_ cloudprovider.Stopper            = (*Provider)(nil)
)

// api is what this package calls of EC2.
type api interface {
	RunInstances(context.Context, *ec2.RunInstancesInput, ...func(*ec2.Options)) (*ec2.RunInstancesOutput, error)
	StartInstances(context.Context, *ec2.StartInstancesInput, ...func(*ec2.Options)) (*ec2.StartInstancesOutput, error)
	StopInstances(context.Context, *ec2.StopInstancesInput, ...func(*ec2.Options)) (*ec2.StopInstancesOutput, error)
	TerminateInstances(context.Context, *ec2.TerminateInstancesInput, ...func(*ec2.Options)) (*ec2.TerminateInstancesOutput, error)
	DescribeInstances(context.Context, *ec2.DescribeInstancesInput, ...func(*ec2.Options)) (*ec2.DescribeInstancesOutput, error)
	GetConsoleOutput(context.Context, *ec2.GetConsoleOutputInput, ...func(*ec2.Options)) (*ec2.GetConsoleOutputOutput, error)
	DescribeInstanceStatus(context.Context, *ec2.DescribeInstanceStatusInput, ...func(*ec2.Options)) (*ec2.DescribeInstanceStatusOutput, error)
	DescribeImages(context.Context, *ec2.DescribeImagesInput, ...func(*ec2.Options)) (*ec2.DescribeImagesOutput, error)
	DescribeSubnets(context.Context, *ec2.DescribeSubnetsInput, ...func(*ec2.Options)) (*ec2.DescribeSubnetsOutput, error)
	DescribeVpcs(context.Context, *ec2.DescribeVpcsInput, ...func(*ec2.Options)) (*ec2.DescribeVpcsOutput, error)
	DescribeSecurityGroups(context.Context, *ec2.DescribeSecurityGroupsInput, ...func(*ec2.Options)) (*ec2.DescribeSecurityGroupsOutput, error)
	CreateSecurityGroup(context.Context, *ec2.CreateSecurityGroupInput, ...func(*ec2.Options)) (*ec2.CreateSecurityGroupOutput, error)
	DeleteSecurityGroup(context.Context, *ec2.DeleteSecurityGroupInput, ...func(*ec2.Options)) (*ec2.DeleteSecurityGroupOutput, error)
	AuthorizeSecurityGroupIngress(context.Context, *ec2.AuthorizeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.AuthorizeSecurityGroupIngressOutput, error)
	RevokeSecurityGroupIngress(context.Context, *ec2.RevokeSecurityGroupIngressInput, ...func(*ec2.Options)) (*ec2.RevokeSecurityGroupIngressOutput, error)
	DescribeRouteTables(context.Context, *ec2.DescribeRouteTablesInput, ...func(*ec2.Options)) (*ec2.DescribeRouteTablesOutput, error)
	CreateRoute(context.Context, *ec2.CreateRouteInput, ...func(*ec2.Options)) (*ec2.CreateRouteOutput, error)
	DeleteRoute(context.Context, *ec2.DeleteRouteInput, ...func(*ec2.Options)) (*ec2.DeleteRouteOutput, error)
	DescribeVolumes(context.Context, *ec2.DescribeVolumesInput, ...func(*ec2.Options)) (*ec2.DescribeVolumesOutput, error)
	DeleteVolume(context.Context, *ec2.DeleteVolumeInput, ...func(*ec2.Options)) (*ec2.DeleteVolumeOutput, error)
	DescribeNetworkInterfaces(context.Context, *ec2.DescribeNetworkInterfacesInput, ...func(*ec2.Options)) (*ec2.DescribeNetworkInterfacesOutput, error)
	DeleteNetworkInterface(context.Context, *ec2.DeleteNetworkInterfaceInput, ...func(*ec2.Options)) (*ec2.DeleteNetworkInterfaceOutput, error)
	ModifyInstanceAttribute(context.Context, *ec2.ModifyInstanceAttributeInput, ...func(*ec2.Options)) (*ec2.ModifyInstanceAttributeOutput, error)
}

// New prepares a provider. It calls no EC2 API, so it fails only for a
// configuration that cannot be right.
func New(ctx context.Context, cfg Config) (*Provider, error) {
	sdk, httpClient, err := loadSDK(ctx, cfg)
	if err != nil {
		return nil, err
	}
	p, err := newProvider(cfg)
	if err != nil {
		return nil, err
	}
	sdk.APIOptions = append(sdk.APIOptions, p.calls.register)
	p.ec2 = ec2.NewFromConfig(sdk, func(o *ec2.Options) {
		if cfg.EndpointURL != "" {
			o.BaseEndpoint = aws.String(cfg.EndpointURL)
		}
		// EC2's alone: what is configured is that endpoint, and credentials and
		// logins go over the other clients.
		o.HTTPClient = httpClient.WithTransportOptions(func(t *http.Transport) {
			// Launches come in bursts; a new TLS handshake for each would be
			// most of their cost.
			t.MaxIdleConnsPerHost = 64
			if cfg.InsecureTLSSkipVerify {
				t.TLSClientConfig = &tls.Config{InsecureSkipVerify: true} //nolint:gosec // asked for by the configuration, for endpoints that are not AWS
			}
		})
	})
	p.regs.ecr = ecr.NewFromConfig(sdk)
	return p, nil
}

// loadSDK is what the clients of all services have in common.
func loadSDK(ctx context.Context, cfg Config) (aws.Config, *awshttp.BuildableClient, error) {
	if cfg.Region == "" {
		return aws.Config{}, nil, errors.New("aws: region is empty")
	}
	if (cfg.AccessKeyID == "") != (cfg.SecretAccessKey == "") {
		return aws.Config{}, nil, errors.New("aws: accessKeyID and secretAccessKey must be given together")
	}
	httpClient := awshttp.NewBuildableClient().WithTimeout(attemptTimeout)
	opts := []func(*awsconfig.LoadOptions) error{
		awsconfig.WithRegion(cfg.Region),
		awsconfig.WithHTTPClient(httpClient),
		awsconfig.WithRetryer(newReadRetryer),
		awsconfig.WithAppID("kip"),
		awsconfig.WithWebIdentityRoleCredentialOptions(func(o *stscreds.WebIdentityRoleOptions) {
			// The SDK makes its own client of STS before it has read AWS_ENDPOINT_URL.
			if endpoint := cmp.Or(os.Getenv("AWS_ENDPOINT_URL_STS"), os.Getenv("AWS_ENDPOINT_URL")); endpoint != "" {
				o.Client = sts.New(sts.Options{Region: cfg.Region, BaseEndpoint: aws.String(endpoint), HTTPClient: httpClient})
			}
		}),
	}
	if cfg.AccessKeyID != "" {
		opts = append(opts, awsconfig.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider(cfg.AccessKeyID, cfg.SecretAccessKey, "")))
	}
	sdk, err := awsconfig.LoadDefaultConfig(ctx, opts...)
	if err != nil {
		return aws.Config{}, nil, fmt.Errorf("aws: loading the SDK's configuration: %w", err)
	}
	return sdk, httpClient, nil
}

// newProvider makes a provider that lacks its clients.
func newProvider(cfg Config) (*Provider, error) {
	if cfg.ControllerID == "" {
		return nil, errors.New("aws: controller ID is empty")
	}
	if cfg.Catalogue == nil || cfg.Clock == nil || cfg.Logger == nil {
		return nil, errors.New("aws: catalogue, clock and logger must be set")
	}
	calls, err := newCalls(cfg)
	if err != nil {
		return nil, err
	}
	p := &Provider{cfg: cfg, calls: calls, log: cfg.Logger, own: own{ids: map[string]uint64{}}, routed: routed{nics: map[string]bool{}}}
	p.ends = ends{send: p.terminate, turn: make(chan struct{}, 1)}
	p.nets = networks{p: p, cache: newCached[*network](), until: map[string]time.Time{}}
	p.imgs = images{p: p, cache: newCached[chosenImages]()}
	p.grp = securityGroup{p: p, cache: newCached[string]()}
	p.rts = routing{p: p, cache: newCached[routeTables]()}
	p.regs = registries{p: p, logins: map[ecrEndpoint]*ecrLogin{}}
	return p, nil
}

// Warm reads ahead what the first launch would have to read, and makes Kip's
// security group. Errors are worth showing, but Create reads again what is
// missing then.
func (p *Provider) Warm(ctx context.Context) error {
	_, err := p.nets.get(ctx)
	_, grpErr := p.grp.get(ctx)
	_, imgErr := p.imgs.all(ctx, "")
	return errors.Join(err, grpErr, imgErr)
}
