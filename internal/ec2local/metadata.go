package ec2local

import (
	"net/netip"

	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/imds"
)

// metadata is what the instance that has an address may know of itself.
func (s *Server) metadata(addr netip.Addr) (imds.Instance, bool) {
	i, ok := s.cloud.ByAddress(addr)
	if !ok {
		return imds.Instance{}, false
	}
	world, nic := s.cloud.World(), &i.Interface
	subnet := s.cloud.Subnet(nic.SubnetID)
	out := imds.Instance{
		Enabled: i.Metadata.Enabled, TokensRequired: i.Metadata.TokensRequired, ResponseHopLimit: i.Metadata.ResponseHopLimit,
		ID: i.ID, ReservationID: i.ReservationID, Type: i.Type, ImageID: i.ImageID, AccountID: AccountID,
		Architecture: i.Architecture, Region: s.cfg.Region, Zone: i.Zone, ZoneID: subnet.ZoneID,
		HostName: s.cloud.PrivateDNSName(nic.Primary), LaunchTime: i.LaunchTime, LaunchIndex: i.Index,
		UserData:    i.UserData,
		InterfaceID: nic.ID, SubnetID: subnet.ID, VPCID: world.VPC.ID, MAC: nic.MAC,
		PrivateIPs: nic.Addresses(), PublicIP: nic.Public, SubnetCIDR: subnet.CIDR, VPCCIDR: world.VPC.CIDR,
		GroupIDs: nic.Groups,
	}
	for _, id := range nic.Groups {
		out.Groups = append(out.Groups, world.SecurityGroups[id].Name)
	}
	if i.ProfileARN != "" {
		out.ProfileARN, out.ProfileID = i.ProfileARN, iam.ProfileID(i.ProfileARN)
		// Without a role, or with one that does not trust EC2, there are no credentials.
		if role, session, err := s.iam.InstanceSession(i.ProfileARN, i.ID); err == nil {
			out.Role, out.Session = role, session
		}
	}
	if i.Metadata.Tags {
		out.Tags = i.Tags
	}
	if spot := i.Spot; spot != nil {
		out.Spot, out.InterruptionNotice, out.RebalanceNotice = true, spot.Action, spot.Rebalance
	}
	return out, true
}
