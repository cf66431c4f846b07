package efsapi

import (
	"errors"
	"net/http"
	"net/netip"

	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

type mountTargetAnswer struct {
	OwnerID      string `json:"OwnerId"`
	ID           string `json:"MountTargetId"`
	FileSystemID string `json:"FileSystemId"`
	SubnetID     string `json:"SubnetId"`
	State        string `json:"LifeCycleState"`
	Address      string `json:"IpAddress"`
	InterfaceID  string `json:"NetworkInterfaceId"`
	ZoneID       string `json:"AvailabilityZoneId"`
	Zone         string `json:"AvailabilityZoneName"`
	VPCID        string `json:"VpcId"`
}

func (a *api) target(t mountTarget) mountTargetAnswer {
	subnet := a.cfg.Cloud.Subnet(t.SubnetID)
	return mountTargetAnswer{
		OwnerID: a.cfg.Cloud.AccountID(), ID: t.ID, FileSystemID: t.FileSystemID, SubnetID: t.SubnetID,
		State: a.lifeCycle(t.Created), Address: t.Address.String(), InterfaceID: t.InterfaceID,
		ZoneID: subnet.ZoneID, Zone: subnet.Zone, VPCID: a.cfg.Cloud.World().VPC.ID,
	}
}

func noTarget(id string) error {
	return service.Errorf(http.StatusNotFound, "MountTargetNotFound", "Mount target '%s' does not exist.", id)
}

type createTargetRequest struct {
	FileSystemID   string `json:"FileSystemId"`
	SubnetID       string `json:"SubnetId"`
	IPAddress      string `json:"IpAddress"`
	SecurityGroups []string
}

// createMountTarget makes a mount target with an address of the subnet. There is one for each zone.
func (a *api) createMountTarget(c *service.Call, in *createTargetRequest) (*mountTargetAnswer, error) {
	if err := a.authorize(c, in.FileSystemID); err != nil {
		return nil, err
	}
	subnet := a.cfg.Cloud.Subnet(in.SubnetID)
	if subnet.ID == "" {
		return nil, service.Errorf(http.StatusBadRequest, "SubnetNotFound", "The subnet ID '%s' does not exist", in.SubnetID)
	}
	groups, err := a.groups(in.SecurityGroups)
	if err != nil {
		return nil, err
	}
	var want netip.Addr
	if in.IPAddress != "" {
		if want, err = netip.ParseAddr(in.IPAddress); err != nil {
			return nil, bad("Invalid IP address: %s", in.IPAddress)
		}
	}
	t := mountTarget{FileSystemID: in.FileSystemID, SubnetID: in.SubnetID, Groups: groups, Created: a.cfg.Now().UTC()}
	if t.ID, err = a.cfg.Cloud.NewID("fsmt"); err != nil {
		return nil, err
	}
	if t.InterfaceID, err = a.cfg.Cloud.NewID("eni"); err != nil {
		return nil, err
	}
	err = a.store.Change(func(s *state) error {
		if err := a.mountable(s, in.FileSystemID, subnet.Zone); err != nil {
			return err
		}
		if t.Address, err = a.cfg.Cloud.Hold(in.SubnetID, want); err != nil {
			return addressError(err)
		}
		s.MountTargets[t.ID] = t
		return nil
	})
	if err != nil {
		if t.Address.IsValid() {
			a.cfg.Cloud.Release(t.Address)
		}
		return nil, err
	}
	answer := a.target(t)
	return &answer, nil
}

// mountable tells whether a file system can get a mount target in a zone.
func (a *api) mountable(s *state, id, zone string) error {
	f, ok := s.FileSystems[id]
	if !ok {
		return noFileSystem(id)
	}
	if a.lifeCycle(f.Created) != "available" {
		return service.Errorf(http.StatusConflict, "IncorrectFileSystemLifeCycleState", "File system '%s' is being created.", id)
	}
	for _, t := range s.MountTargets {
		if t.FileSystemID == id && a.cfg.Cloud.Subnet(t.SubnetID).Zone == zone {
			return service.Errorf(http.StatusConflict, "MountTargetConflict", "mount target already exists in this AZ")
		}
	}
	return nil
}

// groups checks security groups, in EFS's words.
func (a *api) groups(ids []string) ([]string, error) {
	groups, err := a.cfg.Cloud.SecurityGroups(ids)
	var refused *query.Error
	if errors.As(err, &refused) {
		code := "SecurityGroupNotFound"
		if refused.Code == "SecurityGroupsPerInterfaceLimitExceeded" {
			code = "SecurityGroupLimitExceeded"
		}
		return nil, service.Errorf(http.StatusBadRequest, code, "%s", refused.Message)
	}
	return groups, err
}

// addressError says in EFS's words why there is no address.
func addressError(err error) error {
	var refused *query.Error
	if !errors.As(err, &refused) {
		return err
	}
	switch refused.Code {
	case "InsufficientFreeAddressesInSubnet":
		return service.Errorf(http.StatusConflict, "NoFreeAddressesInSubnet", "%s", refused.Message)
	case "InvalidIPAddress.InUse":
		return service.Errorf(http.StatusConflict, "IpAddressInUse", "%s", refused.Message)
	}
	return bad("%s", refused.Message)
}

type describeTargetsRequest struct {
	MaxItems     int `json:",string"`
	Marker       string
	FileSystemID string `json:"FileSystemId"`
	ID           string `json:"MountTargetId"`
}

type describeTargetsAnswer struct {
	MountTargets []mountTargetAnswer
	NextMarker   string `json:",omitempty"`
}

func (a *api) describeMountTargets(c *service.Call, in *describeTargetsRequest) (*describeTargetsAnswer, error) {
	s := a.store.Now()
	about := in.FileSystemID
	if about == "" {
		about = s.MountTargets[in.ID].FileSystemID
	}
	if err := a.authorize(c, about); err != nil {
		return nil, err
	}
	if (in.FileSystemID == "") == (in.ID == "") {
		return nil, bad("exactly one of FileSystemId and MountTargetId is needed")
	}
	if _, ok := s.FileSystems[in.FileSystemID]; in.FileSystemID != "" && !ok {
		return nil, noFileSystem(in.FileSystemID)
	}
	if _, ok := s.MountTargets[in.ID]; in.ID != "" && !ok {
		return nil, noTarget(in.ID)
	}
	var all []mountTarget
	for _, t := range s.MountTargets {
		if t.FileSystemID == in.FileSystemID || t.ID == in.ID {
			all = append(all, t)
		}
	}
	all, next := page(all, in.MaxItems, in.Marker, func(t mountTarget) string { return t.ID })
	answer := &describeTargetsAnswer{MountTargets: []mountTargetAnswer{}, NextMarker: next}
	for _, t := range all {
		answer.MountTargets = append(answer.MountTargets, a.target(t))
	}
	return answer, nil
}

type targetRequest struct {
	ID string `json:"MountTargetId"`
}

// authorizeTarget asks for the operation on a mount target's file system.
func (a *api) authorizeTarget(c *service.Call, id string) error {
	return a.authorize(c, a.store.Now().MountTargets[id].FileSystemID)
}

func (a *api) deleteMountTarget(c *service.Call, in *targetRequest) error {
	if err := a.authorizeTarget(c, in.ID); err != nil {
		return err
	}
	var gone mountTarget
	err := a.store.Change(func(s *state) error {
		t, ok := s.MountTargets[in.ID]
		if !ok {
			return noTarget(in.ID)
		}
		gone = t
		delete(s.MountTargets, in.ID)
		return nil
	})
	if err == nil {
		a.cfg.Cloud.Release(gone.Address)
	}
	return err
}

type groupsAnswer struct{ SecurityGroups []string }

func (a *api) describeGroups(c *service.Call, in *targetRequest) (*groupsAnswer, error) {
	if err := a.authorizeTarget(c, in.ID); err != nil {
		return nil, err
	}
	t, ok := a.store.Now().MountTargets[in.ID]
	if !ok {
		return nil, noTarget(in.ID)
	}
	return &groupsAnswer{t.Groups}, nil
}

type modifyGroupsRequest struct {
	ID             string `json:"MountTargetId"`
	SecurityGroups []string
}

func (a *api) modifyGroups(c *service.Call, in *modifyGroupsRequest) error {
	if err := a.authorizeTarget(c, in.ID); err != nil {
		return err
	}
	groups, err := a.groups(in.SecurityGroups)
	if err != nil {
		return err
	}
	return a.store.Change(func(s *state) error {
		t, ok := s.MountTargets[in.ID]
		if !ok {
			return noTarget(in.ID)
		}
		t.Groups = groups
		s.MountTargets[in.ID] = t
		return nil
	})
}
