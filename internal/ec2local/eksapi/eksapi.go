// Package eksapi speaks as much of EKS's API as whoever installs something into a cluster asks: where it is, and who
// issues its tokens. The clusters are made elsewhere and run on the account's VPC.
package eksapi

import (
	"log/slog"
	"net/http"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// Config is what the service is made of.
type Config struct {
	// Clusters are the clusters that there are: their names, and the URLs of who issues their tokens.
	Clusters map[string]string
	// Cloud is the account that they run in.
	Cloud *cloud.Cloud
	Gate  *access.Gate
	Log   *slog.Logger
}

// New makes the service.
func New(cfg Config) *service.Server {
	a := &api{cfg}
	return &service.Server{
		Prefix: "eks", Gate: cfg.Gate, Log: cfg.Log,
		Protocol: service.REST{Routes: []service.Route{
			{Action: "DescribeCluster", Method: http.MethodGet, Path: "/clusters/{name}", Status: http.StatusOK},
		}},
		Operations: map[string]service.Operation{"DescribeCluster": service.Op(a.describeCluster)},
	}
}

type api struct{ cfg Config }

type clusterRequest struct {
	Name string `json:"name"`
}

type clusterAnswer struct {
	Cluster cluster `json:"cluster"`
}

type cluster struct {
	Name     string        `json:"name"`
	ARN      string        `json:"arn"`
	Created  service.Epoch `json:"createdAt"`
	Status   string        `json:"status"`
	Network  network       `json:"resourcesVpcConfig"`
	Identity identity      `json:"identity"`
}

type network struct {
	VPC     string   `json:"vpcId"`
	Subnets []string `json:"subnetIds"`
}

type identity struct {
	OIDC issuer `json:"oidc"`
}

type issuer struct {
	URL string `json:"issuer"`
}

func (a *api) describeCluster(c *service.Call, in *clusterRequest) (*clusterAnswer, error) {
	arn := "arn:aws:eks:" + a.cfg.Cloud.Region() + ":" + a.cfg.Cloud.AccountID() + ":cluster/" + in.Name
	if err := c.Authorize(arn, nil); err != nil {
		return nil, err
	}
	url, ok := a.cfg.Clusters[in.Name]
	if !ok {
		return nil, service.Errorf(http.StatusNotFound, "ResourceNotFoundException", "No cluster found for name: %s.", in.Name)
	}
	world := a.cfg.Cloud.World()
	subnets := []string{}
	for _, s := range world.Subnets {
		subnets = append(subnets, s.ID)
	}
	return &clusterAnswer{cluster{
		Name: in.Name, ARN: arn, Created: service.Epoch(world.Created), Status: "ACTIVE",
		Network: network{VPC: world.VPC.ID, Subnets: subnets}, Identity: identity{issuer{url}},
	}}, nil
}
