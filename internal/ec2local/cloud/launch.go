package cloud

import (
	"net/netip"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Launch is the wish for instances. Zero values mean EC2's defaults.
type Launch struct {
	Min, Max    int
	ClientToken string
	// RequestHash tells requests with the same token apart.
	RequestHash string
	DryRun      bool

	ImageID  string
	Type     string
	SubnetID string
	Zone     string
	KeyName  string
	UserData []byte

	ProfileARN         string
	ShutdownBehaviour  string
	CPUCredits         string
	EBSOptimized       bool
	DetailedMonitoring bool
	NoAPITermination   bool
	Metadata           MetadataOptions
	Spot               *Spot // without RequestID

	Groups         []string
	Description    string
	PrimaryIP      netip.Addr // chosen if invalid
	SecondaryIPs   []netip.Addr
	SecondaryCount int
	PublicIP       bool
	Volume         Volume // SizeGiB 0 is the image's size; ID and times are ignored

	InstanceTags, VolumeTags, InterfaceTags Tags
}

// Launch makes instances. It returns as soon as the wish is on disk; machines start later. Repeating a launch with its
// client token returns the instances of the first one.
func (c *Cloud) Launch(l Launch) (*Reservation, []*Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if id, ok := c.tokens[l.ClientToken]; ok && l.ClientToken != "" {
		return c.repeated(c.reservations[id], l)
	}
	t, image, subnet, err := c.resolve(&l)
	if err != nil {
		return nil, nil, err
	}
	if err := c.checkMaxPrice(&l, subnet.Zone); err != nil {
		return nil, nil, err
	}
	if l.DryRun {
		return nil, nil, ErrDryRun()
	}
	r, instances, err := c.reserve(l, t, image, subnet)
	if err != nil {
		return nil, nil, err
	}
	if err := c.store.writeLaunch(r, instances); err != nil {
		return nil, nil, err
	}
	c.add([]Reservation{r}, instances)
	for _, i := range instances {
		c.cfg.Log.Info("launched", "instance", i.ID, "type", i.Type, "zone", i.Zone, "ip", i.Interface.Primary.String())
		c.spawn(i.ID, false)
	}
	return &r, instances, nil
}

// Launched tells whether a launch with this client token was made.
func (c *Cloud) Launched(token string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, ok := c.tokens[token]
	return ok && token != ""
}

// repeated answers a launch whose client token is known. c.mu is held.
func (c *Cloud) repeated(r *Reservation, l Launch) (*Reservation, []*Instance, error) {
	if r.RequestHash != l.RequestHash {
		return nil, nil, query.Errorf("IdempotentParameterMismatch",
			"The client token you have provided is associated with a resource that has different parameters.")
	}
	var out []*Instance
	for _, id := range r.Instances {
		if i, ok := c.instances[id]; ok && i.State != Terminated {
			out = append(out, i)
		}
	}
	if len(out) == 0 {
		return nil, nil, query.Errorf("IdempotentInstanceTerminated",
			"The client token belongs to a request whose instance has been terminated.")
	}
	return r, out, nil
}

// resolve finds what the launch names and checks that it goes together. c.mu is held.
func (c *Cloud) resolve(l *Launch) (t Type, image Image, subnet Subnet, err error) {
	fail := func(err error) (Type, Image, Subnet, error) { return Type{}, Image{}, Subnet{}, err }
	t, ok := c.cfg.Types(l.Type)
	if !ok {
		return fail(query.Errorf("InvalidParameterValue", "Invalid value '%s' for InstanceType.", l.Type))
	}
	if l.Spot != nil && !t.Spot {
		return fail(query.Errorf("Unsupported", "The instance type '%s' is not offered on the spot market.", l.Type))
	}
	if image, err = c.Image(l.ImageID); err != nil {
		return fail(err)
	}
	if image.Architecture != t.Architecture {
		return fail(query.Errorf("InvalidParameterValue", "The architecture '%s' of the specified instance type does "+
			"not match the architecture '%s' of the specified AMI.", t.Architecture, image.Architecture))
	}
	if image.BootMode == BootUEFI && !t.Nitro || image.NoENA && t.Nitro {
		return fail(query.Errorf("InvalidParameterCombination", "The instance type '%s' does not support the boot mode '%s' "+
			"or the network card of the AMI.", t.Name, image.BootMode))
	}
	if subnet, err = c.resolveSubnet(l); err != nil {
		return fail(err)
	}
	if len(l.Groups) == 0 {
		l.Groups = []string{c.defaultGroup().ID}
	}
	l.Groups = unique(l.Groups)
	if err := c.checkGroups(l.Groups); err != nil {
		return fail(err)
	}
	addresses := 1 + len(l.SecondaryIPs) + l.SecondaryCount
	if t.AddressesPerInterface > 0 && addresses > t.AddressesPerInterface {
		return fail(query.Errorf("PrivateIpAddressLimitExceeded", "Number of private addresses exceeds the limit: "+
			"%s allows %d per network interface, %d were asked for", t.Name, t.AddressesPerInterface, addresses))
	}
	if l.Volume.SizeGiB == 0 {
		l.Volume.SizeGiB = image.VolumeGiB
	}
	if l.Volume.SizeGiB < image.VolumeGiB {
		return fail(query.Errorf("InvalidBlockDeviceMapping", "Volume of size %dGB is smaller than snapshot, expect "+
			"size >= %dGB", l.Volume.SizeGiB, image.VolumeGiB))
	}
	if l.CPUCredits != "" && !t.Burstable {
		return fail(query.Errorf("InvalidParameterCombination",
			"The instance type '%s' does not support CPU credits.", t.Name))
	}
	if l.ShutdownBehaviour == "" {
		l.ShutdownBehaviour = ShutdownStop
	}
	return t, image, subnet, checkShutdownBehaviour(l.ShutdownBehaviour)
}

// resolveSubnet finds the launch's subnet: the one named, or the zone's, or the first one.
func (c *Cloud) resolveSubnet(l *Launch) (Subnet, error) {
	if l.SubnetID == "" {
		i := slices.IndexFunc(c.world.Subnets, func(s Subnet) bool { return s.Default && (l.Zone == "" || s.Zone == l.Zone) })
		if i < 0 {
			if l.Zone == "" || slices.Contains(c.cfg.Zones, l.Zone) {
				return Subnet{}, query.Errorf("MissingInput", "No default subnet for availability zone: '%s'.", l.Zone)
			}
			return Subnet{}, query.Errorf("InvalidParameterValue", "Invalid availability zone: [%s]", l.Zone)
		}
		return c.world.Subnets[i], nil
	}
	s := c.subnet(l.SubnetID)
	if s.ID == "" {
		return Subnet{}, NotFound("subnet", l.SubnetID)
	}
	if l.Zone != "" && l.Zone != s.Zone {
		return Subnet{}, query.Errorf("InvalidParameterValue", "The availability zone '%s' does not match the subnet's "+
			"availability zone '%s'", l.Zone, s.Zone)
	}
	return s, nil
}

// reserve makes the records of a launch: as many instances as there are addresses for, from Min to Max.
func (c *Cloud) reserve(l Launch, t Type, image Image, subnet Subnet) (Reservation, []*Instance, error) {
	fail := func(err error) (Reservation, []*Instance, error) { return Reservation{}, nil, err }
	id, err := c.newID("r")
	if err != nil {
		return fail(err)
	}
	r := Reservation{ID: id, Seq: c.seq + 1, ClientToken: l.ClientToken, RequestHash: l.RequestHash}
	var instances []*Instance
	taken := map[netip.Addr]bool{}
	for index := range l.Max {
		nic, err := c.newInterface(l, subnet, taken)
		if err != nil {
			if index >= l.Min {
				break
			}
			return fail(err)
		}
		i, err := c.newInstance(l, t, image, nic)
		if err != nil {
			return fail(err)
		}
		i.ReservationID, i.Seq, i.Index, i.Zone = r.ID, r.Seq, index, subnet.Zone
		instances = append(instances, i)
		r.Instances = append(r.Instances, i.ID)
	}
	return r, instances, nil
}

func (c *Cloud) newInterface(l Launch, subnet Subnet, taken map[netip.Addr]bool) (Interface, error) {
	nic := Interface{
		Description: l.Description, SubnetID: subnet.ID, Groups: l.Groups,
		SourceDestCheck: true, Attached: c.Now(), Tags: l.InterfaceTags,
		Primary: l.PrimaryIP, Secondary: slices.Clone(l.SecondaryIPs),
	}
	if nic.Primary.IsValid() {
		if err := c.wantAddress(subnet, nic.Primary, taken); err != nil {
			return nic, err
		}
	}
	for _, addr := range nic.Secondary {
		if err := c.wantAddress(subnet, addr, taken); err != nil {
			return nic, err
		}
	}
	missing := l.SecondaryCount
	if !nic.Primary.IsValid() {
		missing++
	}
	found, err := c.takeAddresses(subnet, missing, taken)
	if err != nil {
		return nic, err
	}
	if !nic.Primary.IsValid() {
		nic.Primary, found = found[0], found[1:]
	}
	nic.Secondary = append(nic.Secondary, found...)
	if l.PublicIP {
		nic.AutoPublic, nic.Public = true, c.publicAddress(nic.Primary)
	}
	if nic.ID, err = c.newID("eni"); err != nil {
		return nic, err
	}
	nic.MAC = macOf(nic.ID)
	nic.AttachmentID, err = c.newID("eni-attach")
	return nic, err
}

func (c *Cloud) newInstance(l Launch, t Type, image Image, nic Interface) (*Instance, error) {
	now := c.Now()
	i := &Instance{
		ImageID: image.ID, ImageDir: image.Dir, Architecture: image.Architecture,
		Type: t.Name, VCPUs: t.VCPUs, MemoryMiB: t.MemoryMiB, GPUs: t.GPUs, Nitro: t.Nitro, Burstable: t.Burstable,
		LaunchTime: now, ClientToken: l.ClientToken, KeyName: l.KeyName, UserData: l.UserData,
		ProfileARN: l.ProfileARN, ShutdownBehaviour: l.ShutdownBehaviour, CPUCredits: creditsOf(l, t),
		EBSOptimized: l.EBSOptimized, DetailedMonitoring: l.DetailedMonitoring, APITermination: !l.NoAPITermination,
		Metadata: l.Metadata, Tags: l.InstanceTags, State: Pending, Since: now,
		Interface: nic, Volume: l.Volume,
	}
	i.Volume.Device, i.Volume.Created, i.Volume.Tags = RootDevice, now, l.VolumeTags
	var err error
	if i.ID, err = c.newID("i"); err != nil {
		return nil, err
	}
	if i.Volume.ID, err = c.newID("vol"); err != nil {
		return nil, err
	}
	if l.Spot != nil {
		spot := *l.Spot
		if spot.RequestID, err = c.newID("sir"); err != nil {
			return nil, err
		}
		// A spot request's ID is shorter than others: sir- and eight characters.
		spot.RequestID = spot.RequestID[:len("sir-")+8]
		i.Spot = &spot
	}
	return i, nil
}

// creditsOf is how a burstable instance pays for CPU time above its baseline: the older family stops at its credits
// unless told otherwise, all later ones go on.
func creditsOf(l Launch, t Type) string {
	switch {
	case l.CPUCredits != "" || !t.Burstable:
		return l.CPUCredits
	case strings.HasPrefix(t.Name, "t2."):
		return "standard"
	}
	return "unlimited"
}
