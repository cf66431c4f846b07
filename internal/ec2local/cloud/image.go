package cloud

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"
)

// Image is an image that instances are launched from: a folder with an image.json and a rootfs.
type Image struct {
	// ID follows from the folder's name, so that it stays the same when the image is built anew.
	ID string `json:"-"`
	// Dir is the image's folder.
	Dir string `json:"-"`

	Name         string    `json:"name"`
	Description  string    `json:"description"`
	Architecture string    `json:"architecture"`
	Created      time.Time `json:"creationDate"`
	OwnerID      string    `json:"ownerId"`
	Tags         Tags      `json:"tags"`

	// VolumeGiB and VolumeType are the root volume's. The size is the least that a launch may ask for.
	VolumeGiB  int    `json:"volumeGiB"`
	VolumeType string `json:"volumeType"`
	// SnapshotID is what an image was registered with; other images have none. Encrypted is the snapshot's word.
	SnapshotID string `json:"snapshotId,omitempty"`
	Encrypted  bool   `json:"encrypted,omitempty"`
	// BootMode is uefi or not said.
	BootMode string `json:"bootMode,omitempty"`
	// NoENA images do not have the network card of newer instances.
	NoENA bool `json:"noENA,omitempty"`
	// TokensRequired makes instances' metadata need tokens, unless a launch says otherwise.
	TokensRequired bool `json:"tokensRequired,omitempty"`
}

// RootDevice is the name of the root volume's device in every image, and RootVolumeGiB and VolumeType what it is where an
// image does not say.
const (
	RootDevice    = "/dev/xvda"
	RootVolumeGiB = 2
	VolumeType    = "gp2"
)

// imageFile is the file of an image's folder that says what it is.
const imageFile = "image.json"

// Images reads all images, ordered by folder. The folder may change at any time, so nothing is remembered. An image
// that cannot be read is logged and left out.
func (c *Cloud) Images() ([]Image, error) {
	entries, err := os.ReadDir(c.cfg.Images)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the images: %w", err)
	}
	var out []Image
	for _, e := range entries {
		image, err := c.readImage(e.Name())
		switch {
		case errors.Is(err, fs.ErrNotExist):
			// Not an image (yet).
		case err != nil:
			c.cfg.Log.Warn("an image cannot be used", "error", err)
		default:
			out = append(out, image)
		}
	}
	return out, nil
}

func (c *Cloud) readImage(name string) (Image, error) {
	dir := filepath.Join(c.cfg.Images, name)
	raw, err := os.ReadFile(filepath.Join(dir, imageFile))
	if err != nil {
		return Image{}, fmt.Errorf("reading image %s: %w", name, err)
	}
	image := Image{
		ID: imageID(name), Dir: dir, Name: name, Architecture: "x86_64", OwnerID: c.cfg.AccountID,
		VolumeGiB: RootVolumeGiB, VolumeType: VolumeType,
	}
	if err := json.Unmarshal(raw, &image); err != nil {
		return Image{}, fmt.Errorf("reading image %s: %w", name, err)
	}
	return image, nil
}

func imageID(folder string) string {
	sum := sha256.Sum256([]byte(folder))
	return "ami-0" + hex.EncodeToString(sum[:8])
}

// Image finds an image by its ID.
func (c *Cloud) Image(id string) (Image, error) {
	images, err := c.Images()
	if err != nil {
		return Image{}, err
	}
	for _, image := range images {
		if image.ID == id {
			return image, nil
		}
	}
	return Image{}, NotFound("ami", id)
}
