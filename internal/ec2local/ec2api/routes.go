package ec2api

import (
	"net/netip"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// routeRequest is what CreateRoute and ReplaceRoute are asked.
type routeRequest struct {
	dryRun
	TableID     string `query:"RouteTableId,required"`
	Destination string `query:"DestinationCidrBlock,required"`
	GatewayID   string `query:"GatewayId"`
	InstanceID  string `query:"InstanceId"`
	InterfaceID string `query:"NetworkInterfaceId"`
}

func (a *API) createRoute(in *routeRequest) (*done, error) {
	return a.makeRoute(in, a.cloud.CreateRoute)
}

func (a *API) replaceRoute(in *routeRequest) (*done, error) {
	return a.makeRoute(in, a.cloud.ReplaceRoute)
}

func (a *API) makeRoute(in *routeRequest, do func(string, netip.Prefix, cloud.Target, bool) error) (*done, error) {
	destination, err := destinationOf(in.Destination)
	if err != nil {
		return nil, err
	}
	target, err := a.cloud.RouteTarget(in.GatewayID, in.InstanceID, in.InterfaceID)
	if err != nil {
		return nil, err
	}
	return ok(do(in.TableID, destination, target, in.DryRun))
}

type deleteRouteRequest struct {
	dryRun
	TableID     string `query:"RouteTableId,required"`
	Destination string `query:"DestinationCidrBlock,required"`
}

func (a *API) deleteRoute(in *deleteRouteRequest) (*done, error) {
	destination, err := destinationOf(in.Destination)
	if err != nil {
		return nil, err
	}
	return ok(a.cloud.DeleteRoute(in.TableID, destination, in.DryRun))
}

// destinationOf reads where a route goes. EC2 drops host bits silently.
func destinationOf(s string) (netip.Prefix, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || !p.Addr().Is4() {
		return netip.Prefix{}, query.Errorf("InvalidParameterValue", "Value (%s) for parameter destinationCidrBlock is "+
			"invalid. This is not a valid CIDR block.", s)
	}
	return p.Masked(), nil
}
