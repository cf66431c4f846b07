package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/spf13/cobra"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/ec2local"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
	"github.com/elotl/kip/v2/internal/instancetype"
)

type serveOptions struct {
	state, region, vpc, cluster, images, credentials, nameserver, ecrImages string

	listen           []string
	issuerKeys       map[string]string
	eksClusters      map[string]string
	shares           map[string]string
	delays           cloud.Delays
	lag              cloud.Lag
	grace            time.Duration
	throttle, hollow bool
	hollowCells      bool
}

func serveCommand() *cobra.Command {
	var o serveOptions
	cmd := &cobra.Command{
		Use:   "serve",
		Short: "Serve the EC2 API and run the instances",
		Long: "Serve the EC2 API and run the instances until interrupted. Instances go on running then, and the next\n" +
			"serve takes them up again. It is ready when GET /healthz answers.",
		Args: cobra.NoArgs,
		RunE: func(cmd *cobra.Command, _ []string) error { return serve(cmd.Context(), o) },
	}
	f := cmd.Flags()
	f.StringVar(&o.state, "state", "", "directory for the state; not on an overlay file system")
	f.StringArrayVar(&o.listen, "listen", []string{"127.0.0.1:4566"}, "address to serve the API on; may be repeated, and be the host's in the VPC")
	f.StringVar(&o.region, "region", "us-west-2", "region to be")
	f.StringVar(&o.vpc, "vpc-cidr", "10.98.0.0/16", "address range of the VPC, /16 to /20")
	f.StringVar(&o.cluster, "cluster", "kip", "name of the cluster; names its network and cgroups")
	f.StringVar(&o.images, "images", "", "directory that holds a directory per image")
	f.StringVar(&o.credentials, "credentials", "", "JSON file of access keys and secrets (default: made in the state directory)")
	f.StringToStringVar(&o.issuerKeys, "issuer-keys", nil, "public keys of a token issuer, as URL=FILE: PEM or a JSON web key set; repeatable")
	f.StringToStringVar(&o.eksClusters, "eks-clusters", nil, "EKS clusters that there are, as NAME=URL of who issues its tokens; repeatable")
	f.StringVar(&o.ecrImages, "ecr-images", "", "URL of the registry, open to everybody, that stores the images of the account's ECR")
	f.StringVar(&o.nameserver, "nameserver", "", "name server of machines whose image brings none (default: the host's address in the VPC)")
	f.StringToStringVar(&o.shares, "share", nil, "directory of the host that containers, not virtual machines, see read-only, as PATH=DIRECTORY: what they would mount from a file server; repeatable")
	f.DurationVar(&o.delays.Boot, "boot-delay", 0, "time in pending before an instance is started")
	f.DurationVar(&o.delays.Terminate, "terminate-delay", time.Second, "least time in shutting-down")
	f.DurationVar(&o.delays.Stop, "stop-delay", time.Second, "least time in stopping")
	f.DurationVar(&o.delays.Checks, "status-check-delay", 0, "how long status checks of a new instance are initializing")
	f.DurationVar(&o.delays.ModifyVolume, "modify-volume-delay", 0, "how long a modification of a volume takes")
	f.DurationVar(&o.lag.Appear, "appear-delay", 0, "how long a new instance does not exist for other requests")
	f.DurationVar(&o.lag.Stale, "stale-reads", 0, "how old the state of instances is that reads show")
	f.DurationVar(&o.delays.Retention, "retention", time.Hour, "how long terminated instances can be seen")
	f.DurationVar(&o.grace, "power-off-grace", 10*time.Second, "how long an instance has to power off by itself")
	f.BoolVar(&o.throttle, "throttle", true, "answer RequestLimitExceeded to what is more than EC2 allows a new account")
	f.BoolVar(&o.hollow, "hollow", false, "instances exist in the API only and run nothing; needs no root")
	f.BoolVar(&o.hollowCells, "hollow-cells", false, "instances are cells without containers, thousands of them in this process (go doc ./internal/ec2local/hollowcell)")
	cmd.MarkFlagsMutuallyExclusive("hollow", "hollow-cells")
	for _, name := range []string{"state", "images"} {
		_ = cmd.MarkFlagRequired(name) // fails for unknown flags only
	}
	return cmd
}

func serve(ctx context.Context, o serveOptions) (err error) {
	vpc, err := netip.ParsePrefix(o.vpc)
	if err != nil {
		return fmt.Errorf("--vpc-cidr: %w", err)
	}
	var ecrImages *url.URL
	if o.ecrImages != "" {
		if ecrImages, err = url.Parse(o.ecrImages); err != nil || ecrImages.Host == "" {
			return fmt.Errorf("--ecr-images is %q, not a URL", o.ecrImages)
		}
	}
	for _, dir := range []*string{&o.state, &o.images} {
		if *dir, err = filepath.Abs(*dir); err != nil {
			return err
		}
	}
	for path, dir := range o.shares {
		if !filepath.IsAbs(path) || !filepath.IsAbs(dir) {
			return fmt.Errorf("--share is %s=%s; it takes two absolute paths", path, dir)
		}
	}
	held, err := lock(o.state)
	if err != nil {
		return err
	}
	defer held.Close()
	c := cluster{Name: o.cluster, VPC: vpc, Region: o.region, Zones: []string{o.region + "a", o.region + "b", o.region + "c"}, Hollow: o.hollow, HollowCells: o.hollowCells}
	if err := keepCluster(o.state, c); err != nil {
		return err
	}
	credentials, err := readCredentials(o.state, o.credentials)
	if err != nil {
		return err
	}
	catalogue, err := instancetype.Embedded()
	if err != nil {
		return err
	}

	market, err := ec2local.CatalogueSpotMarket(catalogue, c.Region)
	var unknown *instancetype.UnknownRegionError
	if err != nil && !errors.As(err, &unknown) { // a region without prices can be played nevertheless
		return err
	}

	machines, err := openMachines(ctx, o, c)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, machines.close()) }()
	var limits throttle.Limits
	if o.throttle {
		limits = throttle.EC2()
	}
	server, err := ec2local.New(ec2local.Config{
		Dir: filepath.Join(o.state, cloudDir), Images: o.images, Region: c.Region, Zones: c.Zones, VPC: vpc,
		Credentials: credentials, IssuerKeys: o.issuerKeys, Clusters: o.eksClusters, ECRImages: ecrImages, Types: ec2local.CatalogueTypes(catalogue), Hypervisor: machines, SpotMarket: market,
		Network: machines.network, Throttling: limits, Delays: o.delays, Lag: o.lag, Clock: clock.RealClock{}, Log: slog.Default(),
	})
	if err != nil {
		return err
	}
	metadata, err := machines.listenMetadata()
	if err != nil {
		return err
	}
	var apis []net.Listener
	for _, address := range o.listen {
		api, err := net.Listen("tcp", address)
		if err != nil {
			for _, l := range append(apis, metadata) {
				_ = l.Close()
			}
			return fmt.Errorf("listening for API requests: %w", err)
		}
		apis = append(apis, api)
	}
	slog.Info("serving", "endpoint", "http://"+apis[0].Addr().String(), "region", c.Region, "vpc", vpc.String(), "pid", os.Getpid())
	return server.Run(ctx, metadata, apis...)
}
