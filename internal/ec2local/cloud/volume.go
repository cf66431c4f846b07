package cloud

import (
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Modification is what was done to a volume last: what it was before, and when that began.
type Modification struct {
	SizeGiB          int
	Type             string
	IOPS, Throughput int
	Start            time.Time
}

// modificationPause is how long EC2 makes one wait between two modifications of a volume.
const modificationPause = 6 * time.Hour

// ModificationEnd is when a modification ends or ended.
func (c *Cloud) ModificationEnd(m *Modification) (end time.Time, done bool) {
	end = m.Start.Add(c.cfg.Delays.ModifyVolume)
	return end, c.until(end) == 0
}

// ModifyVolume changes a volume and returns the instance that has it. The disk of its machine stays as it is: sizes are
// not enforced.
func (c *Cloud) ModifyVolume(id string, dryRun bool, change func(*Volume) error) (*Instance, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := c.volumeOwner(id)
	if i != nil {
		i, _ = c.known(i.ID)
	}
	if i == nil {
		return nil, NotFound("vol", id)
	}
	before, after := i.Volume, i.Volume
	if err := change(&after); err != nil {
		return nil, err
	}
	if after.SizeGiB < before.SizeGiB {
		return nil, query.Errorf("InvalidParameterValue", "New size cannot be smaller than existing size")
	}
	if m := before.Modification; m != nil {
		if _, done := c.ModificationEnd(m); !done {
			return nil, query.Errorf("IncorrectModificationState", "Cannot modify volume %s in modification state MODIFYING", id)
		}
		if c.until(m.Start.Add(modificationPause)) > 0 {
			return nil, query.Errorf("VolumeModificationRateExceeded", "You've reached the maximum modification rate per "+
				"volume limit. Wait at least 6 hours between modifications per EBS volume.")
		}
	}
	if dryRun {
		return nil, ErrDryRun()
	}
	after.Modification = &Modification{
		SizeGiB: before.SizeGiB, Type: before.Type, IOPS: before.IOPS, Throughput: before.Throughput, Start: c.Now(),
	}
	err := c.mutate(i.ID, func(i *Instance) { i.Volume = after })
	return c.instances[i.ID], err
}

// volumeOwner is the instance with a volume; nil if there is none, or no longer. c.mu is held.
func (c *Cloud) volumeOwner(id string) *Instance {
	for _, i := range c.instances {
		if i.HasMachine() && i.Volume.ID == id {
			return i
		}
	}
	return nil
}
