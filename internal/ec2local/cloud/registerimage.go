package cloud

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// BootUEFI is the boot mode of images whose disk firmware starts.
const BootUEFI = "uefi"

// registered is what the folders of images begin with that were made by RegisterImage.
const registered = "registered-"

// RegisterImage makes an image of a disk, which is shared, or copied where it cannot be: it must not change any more.
func (c *Cloud) RegisterImage(image Image, disk string, dryRun bool) (_ Image, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	all, err := c.Images()
	if err != nil {
		return Image{}, err
	}
	image.OwnerID, image.Created = c.cfg.AccountID, c.Now()
	for _, known := range all {
		if known.Name == image.Name && known.OwnerID == image.OwnerID {
			return Image{}, query.Errorf("InvalidAMIName.Duplicate", "AMI name %s is already in use by AMI %s", image.Name, known.ID)
		}
	}
	if dryRun {
		return Image{}, ErrDryRun()
	}
	folder, err := c.newID("ami")
	if err != nil {
		return Image{}, err
	}
	folder = registered + strings.TrimPrefix(folder, "ami-")
	description, err := json.MarshalIndent(image, "", "  ")
	if err != nil {
		return Image{}, fmt.Errorf("registering an image: %w", err)
	}
	final := filepath.Join(c.cfg.Images, folder)
	partial := final + ".partial"
	if err := os.MkdirAll(partial, 0o700); err != nil {
		return Image{}, fmt.Errorf("registering an image: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(partial)) }()
	if err := share(disk, filepath.Join(partial, "disk")); err != nil {
		return Image{}, fmt.Errorf("registering an image: %w", err)
	}
	if err := os.WriteFile(filepath.Join(partial, imageFile), description, 0o600); err != nil {
		return Image{}, fmt.Errorf("registering an image: %w", err)
	}
	if err := os.Rename(partial, final); err != nil {
		return Image{}, fmt.Errorf("registering an image: %w", err)
	}
	c.cfg.Log.Info("image registered", "name", image.Name, "folder", folder)
	return c.readImage(folder)
}

// share makes a file have another name, or copies it to another file system.
func share(from, to string) error {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// DeregisterImage removes an image that was registered. Others are not the API's to remove. Machines that were made of it
// need its disk, so the files stay if there are any; nobody can name them then.
func (c *Cloud) DeregisterImage(id string, dryRun bool) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	image, err := c.Image(id)
	switch {
	case err != nil:
		return err
	case image.SnapshotID == "":
		return query.Errorf("Unsupported", "The image %s was not registered, and cannot be deregistered", id)
	case dryRun:
		return ErrDryRun()
	}
	if err := os.Remove(filepath.Join(image.Dir, imageFile)); err != nil {
		return fmt.Errorf("deregistering an image: %w", err)
	}
	for _, i := range c.instances {
		if i.ImageID == id && i.HasMachine() {
			return nil
		}
	}
	if err := os.RemoveAll(image.Dir); err != nil {
		return fmt.Errorf("deregistering an image: %w", err)
	}
	return nil
}
