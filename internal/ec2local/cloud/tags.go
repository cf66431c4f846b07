package cloud

import (
	"maps"
	"slices"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Tags are a resource's tags.
type Tags map[string]string

// EC2's limits on tags: how many a resource may have, and how long keys and values may be.
const (
	maxTags     = 50
	maxTagKey   = 128
	maxTagValue = 256
)

// CheckTags refuses tags that no resource may be given.
func CheckTags(tags Tags) error {
	if len(tags) > maxTags {
		return query.Errorf("TagLimitExceeded", "A resource can have at most %d tags", maxTags)
	}
	for key, value := range tags {
		switch {
		case key == "" || len(key) > maxTagKey:
			return query.Errorf("InvalidParameterValue", "Tag key %q must have 1 to %d characters", key, maxTagKey)
		case strings.HasPrefix(strings.ToLower(key), "aws:"):
			return query.Errorf("InvalidParameterValue", "Tag keys starting with 'aws:' are reserved for internal use")
		case len(value) > maxTagValue:
			return query.Errorf("InvalidParameterValue", "The value of tag %q is longer than %d characters", key, maxTagValue)
		}
	}
	return nil
}

// TagChange adds and removes tags of one resource.
type TagChange struct {
	// Set are tags to add or overwrite.
	Set Tags
	// Remove are tags to remove. A nil value removes whatever the tag's value is, otherwise it must be equal.
	Remove map[string]*string
	// RemoveAll removes all tags.
	RemoveAll bool
}

// apply returns the tags after the change; the old ones stay as they are.
func (ch TagChange) apply(old Tags) Tags {
	out := Tags{}
	if !ch.RemoveAll {
		maps.Copy(out, old)
	}
	for key, value := range ch.Remove {
		if have, ok := out[key]; ok && (value == nil || *value == have) {
			delete(out, key)
		}
	}
	maps.Copy(out, ch.Set)
	return out
}

// ChangeTags changes the tags of resources of any kind: all of them, or none when one is unknown or a limit is
// exceeded.
func (c *Cloud) ChangeTags(resources []string, change TagChange, dryRun bool) error {
	if err := CheckTags(change.Set); err != nil {
		return err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	var edits []func() error
	for _, id := range slices.Compact(slices.Sorted(slices.Values(resources))) {
		edit, err := c.tagEdit(id, change)
		if err != nil {
			return err
		}
		edits = append(edits, edit)
	}
	if dryRun {
		return ErrDryRun()
	}
	for _, edit := range edits {
		if err := edit(); err != nil {
			return err
		}
	}
	return nil
}

// tagEdit prepares the change of one resource's tags. c.mu is held, then and when the edit is done.
func (c *Cloud) tagEdit(id string, change TagChange) (func() error, error) {
	kind, _, _ := strings.Cut(id, "-")
	onInstance := func(find func(*Instance) bool, tags func(*Instance) *Tags) (func() error, error) {
		for _, i := range c.instances {
			if _, ok := c.known(i.ID); !ok || !find(i) {
				continue
			}
			now := change.apply(*tags(i))
			if err := CheckTags(now); err != nil {
				return nil, err
			}
			return func() error {
				return c.mutate(i.ID, func(i *Instance) { *tags(i) = now })
			}, nil
		}
		return nil, NotFound(kind, id)
	}
	switch kind {
	case "i":
		return onInstance(func(i *Instance) bool { return i.ID == id }, func(i *Instance) *Tags { return &i.Tags })
	case "eni":
		return onInstance(func(i *Instance) bool { return i.HasMachine() && i.Interface.ID == id },
			func(i *Instance) *Tags { return &i.Interface.Tags })
	case "vol":
		return onInstance(func(i *Instance) bool { return i.HasMachine() && i.Volume.ID == id },
			func(i *Instance) *Tags { return &i.Volume.Tags })
	}
	if !c.world.exists(id) {
		return nil, NotFound(kind, id)
	}
	now := change.apply(c.world.Tags[id])
	if err := CheckTags(now); err != nil {
		return nil, err
	}
	return func() error {
		return c.changeWorld(func(w *World) {
			w.Tags = maps.Clone(w.Tags)
			w.Tags[id] = now
		})
	}, nil
}
