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
}

// RootDevice is the name of the root volume's device in every image, and RootVolumeGiB its size there: the least that a
// launch may ask for.
const (
	RootDevice    = "/dev/xvda"
	RootVolumeGiB = 2
)

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
	raw, err := os.ReadFile(filepath.Join(dir, "image.json"))
	if err != nil {
		return Image{}, fmt.Errorf("reading image %s: %w", name, err)
	}
	image := Image{ID: imageID(name), Dir: dir, Name: name, Architecture: "x86_64", OwnerID: c.cfg.AccountID}
	if err := json.Unmarshal(raw, &image); err != nil {
		return Image{}, fmt.Errorf("reading image %s: %w", name, err)
	}
	return image, nil
}

func imageID(folder string) string {
	sum := sha256.Sum256([]byte(folder))
	return "ami-0" + hex.EncodeToString(sum[:8])
}

// image finds an image by its ID.
func (c *Cloud) image(id string) (Image, error) {
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
