package ec2local

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"path/filepath"
	"time"

	"golang.org/x/sync/errgroup"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/ec2api"
	"github.com/elotl/kip/v2/internal/ec2local/fault"
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/iamapi"
	"github.com/elotl/kip/v2/internal/ec2local/imds"
	"github.com/elotl/kip/v2/internal/ec2local/machine"
	"github.com/elotl/kip/v2/internal/ec2local/meteringapi"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/ec2local/snapshot"
	"github.com/elotl/kip/v2/internal/ec2local/stsapi"
	"github.com/elotl/kip/v2/internal/ec2local/throttle"
)

// AccountID is the number of the only account.
const AccountID = "123456789012"

// Config is what a Server is made of.
type Config struct {
	// Dir keeps the account's state.
	Dir string
	// Images is the folder of images.
	Images string
	// Region is the region to play, and Zones its availability zones.
	Region string
	Zones  []string
	// VPC is the only VPC's range.
	VPC netip.Prefix
	// Credentials are the keys of the account's administrators, who may do everything.
	Credentials signature.Credentials
	// IssuerKeys are files with the public keys of token issuers, by the issuer's URL: PEM, or a JSON web key set. Tokens
	// of these issuers can be exchanged for credentials of roles, once the account has an OIDC provider for them.
	IssuerKeys map[string]string
	// Clusters are EKS clusters: their names, and the URLs of who issues their tokens.
	Clusters map[string]string
	// ECRImages is the registry that stores the images of the account's private one; see package ecrapi. May be nil.
	ECRImages *url.URL
	// Types looks an instance type up; see CatalogueTypes.
	Types func(name string) (cloud.Type, bool)
	// SpotMarket is what spot instances cost; see CatalogueSpotMarket. There need not be one.
	SpotMarket cloud.SpotMarket
	// Hypervisor runs the machines.
	Hypervisor machine.Hypervisor
	// Network enforces security groups and route tables; if nil, nobody does.
	Network machine.Network
	// Throttling is how much of each operation the account may use; throttle.EC2 is what a new account of EC2 may. The
	// zero value has no limits.
	Throttling throttle.Limits
	// Delays are how long instances take to change their state.
	Delays cloud.Delays
	// Lag is how far reads are behind at first.
	Lag cloud.Lag
	// Clock tells the time.
	Clock clock.WithTicker
	// Log takes what happens.
	Log *slog.Logger
}

// Server is an EC2 endpoint.
type Server struct {
	cfg    Config
	cloud  *cloud.Cloud
	faults *fault.Script
	iam    *iam.Account
	gate   *access.Gate
	// services by the name that requests are signed for.
	services  map[string]http.Handler
	snapshots *snapshot.Store
	metering  *meteringapi.Service
	imds      *imds.Server
	mux       *http.ServeMux
}

// New opens the account in cfg.Dir, or makes it.
func New(cfg Config) (*Server, error) {
	s := &Server{cfg: cfg, faults: &fault.Script{}, mux: http.NewServeMux()}
	account, err := cloud.Open(cloud.Config{
		Dir: cfg.Dir, Images: cfg.Images, Region: cfg.Region, Zones: cfg.Zones, AccountID: AccountID, VPC: cfg.VPC,
		Hypervisor: cfg.Hypervisor, Network: cfg.Network, Types: cfg.Types, SpotMarket: cfg.SpotMarket, Delays: cfg.Delays, Lag: cfg.Lag,
		Clock: cfg.Clock, Log: cfg.Log,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the account: %w", err)
	}
	s.cloud = account
	s.imds = imds.New(imds.Config{
		Lookup: s.metadata, Key: account.World().MetadataKey, Now: cfg.Clock.Now, Log: cfg.Log,
	})
	s.iam, err = iam.Open(iam.Config{
		Dir: cfg.Dir, AccountID: AccountID, Administrators: cfg.Credentials, IssuerKeys: cfg.IssuerKeys, Now: cfg.Clock.Now,
	})
	if err != nil {
		return nil, fmt.Errorf("opening the account: %w", err)
	}
	if s.snapshots, err = snapshot.Open(filepath.Join(cfg.Dir, "snapshots"), cfg.Clock.Now); err != nil {
		return nil, fmt.Errorf("opening the account: %w", err)
	}
	s.gate = access.New(access.Config{AccountID: AccountID, Identities: s.iam, Now: cfg.Clock.Now, Serves: s.serves})
	trouble := ec2api.Trouble{Faults: s.faults, Throttle: throttle.New(cfg.Throttling, cfg.Clock), Clock: cfg.Clock}
	s.services = map[string]http.Handler{
		ec2Service: ec2api.New(account, s.snapshots, s.gate, s.iam, trouble, cfg.Log),
		"iam":      iamapi.New(s.iam, s.gate, cfg.Log),
		"sts":      stsapi.New(s.iam, s.gate, cfg.Log),
	}
	if err := s.addServices(); err != nil {
		return nil, fmt.Errorf("opening the account: %w", err)
	}
	s.mux.HandleFunc("/", s.dispatch)
	s.mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	s.mux.Handle(adminPrefix, fromLoopback(s.admin()))
	return s, nil
}

// ServeHTTP implements [http.Handler] for everything but the metadata service.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) { s.mux.ServeHTTP(w, r) }

// Metadata is the metadata service.
func (s *Server) Metadata() *imds.Server { return s.imds }

// Drive drives the instances until ctx ends: Run without serving anything.
func (s *Server) Drive(ctx context.Context) { s.cloud.Run(ctx) }

// Run drives the instances, and serves the API and the metadata service, until ctx ends or one of them fails. It closes
// the listeners and returns when everything it started has ended. Machines go on running.
func (s *Server) Run(ctx context.Context, metadata net.Listener, api ...net.Listener) error {
	group, ctx := errgroup.WithContext(ctx)
	group.Go(func() error { s.Drive(ctx); return nil })
	group.Go(func() error { return s.imds.Serve(ctx, metadata) })
	for _, l := range api {
		group.Go(func() error { return s.serveAPI(ctx, l) })
	}
	return group.Wait()
}

// drain is how long requests may take to end when the server ends.
const drain = 5 * time.Second

func (s *Server) serveAPI(ctx context.Context, l net.Listener) error {
	server := &http.Server{
		Handler: s, ReadHeaderTimeout: 10 * time.Second,
		ErrorLog: slog.NewLogLogger(s.cfg.Log.Handler(), slog.LevelDebug),
	}
	stopped := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		defer close(stopped)
		grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), drain)
		defer cancel()
		if server.Shutdown(grace) != nil {
			_ = server.Close()
		}
	})
	err := server.Serve(l)
	if !stop() {
		<-stopped
	}
	if !errors.Is(err, http.ErrServerClosed) {
		return fmt.Errorf("serving the API: %w", err)
	}
	return nil
}
