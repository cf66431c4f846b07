package store

import (
	"crypto/hkdf"
	"crypto/sha256"
	"encoding/hex"
	"fmt"

	"github.com/elotl/kip/v2/internal/imagecache/convert"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

// MasterSize is how long a master key is, in bytes.
const MasterSize = 32

// Keys derives what depends on the master key. All that it derives is for one
// version of the conversion: with another one, layers have other files.
type Keys struct {
	master []byte
}

// NewKeys takes a master key.
func NewKeys(master []byte) (*Keys, error) {
	if len(master) != MasterSize {
		return nil, fmt.Errorf("a master key of %d bytes instead of %d", len(master), MasterSize)
	}
	return &Keys{master: master}, nil
}

// Path of a layer's file, from the share's root.
func (k *Keys) Path(diffID string) string {
	name := hex.EncodeToString(k.derive("name", diffID))
	return layers + "/" + name[:2] + "/" + name
}

// Key that a layer's file is encrypted with. It is the layer's alone, as is its
// content.
func (k *Keys) Key(diffID string) layer.Key {
	return layer.Key(k.derive("key", diffID))
}

func (k *Keys) sealing(diffID string) []byte { return k.derive("seal", diffID) }

func (k *Keys) derive(purpose, diffID string) []byte {
	b, err := hkdf.Key(sha256.New, k.master, nil, fmt.Sprintf("kip image cache %d %s %s", convert.Version, purpose, diffID), 32)
	if err != nil {
		panic(err) // only for lengths that SHA-256 cannot have
	}
	return b
}
