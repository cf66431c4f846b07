package ec2local

import (
	"bytes"
	"io"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/ebsapi"
	"github.com/elotl/kip/v2/internal/ec2local/ecrapi"
	"github.com/elotl/kip/v2/internal/ec2local/efsapi"
	"github.com/elotl/kip/v2/internal/ec2local/eksapi"
	"github.com/elotl/kip/v2/internal/ec2local/meteringapi"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/ec2local/ssmapi"
)

// globalRegion is the region that services without regions are signed for, and that the older endpoint of STS is in.
const globalRegion = "us-east-1"

// addServices makes the services that know neither users nor machines.
func (s *Server) addServices() (err error) {
	file := func(name string) string { return filepath.Join(s.cfg.Dir, name) }
	now, log := s.cfg.Clock.Now, s.cfg.Log
	var registry http.Handler
	s.services["ecr"], registry, err = ecrapi.New(ecrapi.Config{
		AccountID: AccountID, Region: s.cfg.Region, File: file("ecr.json"), Images: s.cfg.ECRImages,
		Identities: s.iam, Gate: s.gate, Now: now, Log: log,
	})
	if err != nil {
		return err
	}
	if registry != nil {
		s.mux.Handle("/v2/", registry)
	}
	s.services[ebsService] = ebsapi.New(ebsapi.Config{Snapshots: s.snapshots, Cloud: s.cloud, Gate: s.gate, Now: now, Log: log})
	s.services["eks"] = eksapi.New(eksapi.Config{Clusters: s.cfg.Clusters, Cloud: s.cloud, Gate: s.gate, Log: log})
	s.services["ssm"], err = ssmapi.New(ssmapi.Config{
		File: file("ssm.json"), Images: s.cloud.Images, AccountID: AccountID, Region: s.cfg.Region, Gate: s.gate, Now: now, Log: log,
	})
	if err != nil {
		return err
	}
	s.metering, err = meteringapi.New(meteringapi.Config{File: file("metering.json"), Gate: s.gate, Now: now, Log: log})
	if err != nil {
		return err
	}
	s.services["aws-marketplace"] = s.metering.Server
	s.services[efsService], err = efsapi.New(efsapi.Config{Dir: s.cfg.Dir, Cloud: s.cloud, Gate: s.gate, Now: now, Log: log})
	return err
}

// serves tells whether there is a service, by its signing name, in a region.
func (s *Server) serves(service, region string) bool {
	if s.services[service] == nil {
		return false
	}
	global := service == "iam" || service == "sts"
	// Clients that are told an endpoint sign for their own region, also for global services.
	return region == s.cfg.Region || global && region == globalRegion
}

const (
	ebsService = "ebs"
	efsService = "elasticfilesystem"
)

// havePaths are the services whose operations are found by path.
var havePaths = []string{ebsService, efsService, "eks"}

// ec2Service is the service that answers what is for none, in the protocol of most clients here.
const ec2Service = "ec2"

// dispatch hands a request to the service that it is signed for, as AWS's endpoints do by their host names. Nothing is
// believed yet: the service checks the signature.
func (s *Server) dispatch(w http.ResponseWriter, r *http.Request) {
	name := signature.Service(r)
	if name == "" && unsignedSTS(w, r) {
		name = "sts"
	}
	service, ok := s.services[name]
	if !ok {
		service = s.services[ec2Service]
	}
	if !slices.Contains(havePaths, name) && r.URL.Path != "/" {
		http.NotFound(w, r)
		return
	}
	service.ServeHTTP(w, r)
}

// maxPeek is the most of a request that is read to find out whose it is.
const maxPeek = 1 << 20

// unsignedSTS tells whether a request without a signature is for STS, which has operations for those who have no
// credentials yet.
func unsignedSTS(w http.ResponseWriter, r *http.Request) bool {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxPeek))
	r.Body = io.NopCloser(io.MultiReader(bytes.NewReader(body), failing{err}))
	form, _ := url.ParseQuery(string(body) + "&" + r.URL.RawQuery) // what can be read of it
	return form.Get("Version") == query.STS.Version
}

// failing is the end of a body, or the error that it could not be read for.
type failing struct{ err error }

func (f failing) Read([]byte) (int, error) {
	if f.err != nil {
		return 0, f.err
	}
	return 0, io.EOF
}
