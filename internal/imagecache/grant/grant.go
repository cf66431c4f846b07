// Package grant is what a cell and Kip say to each other about the image cache:
// which of its layers the cell may have for an image of its own pod. The
// package needs nothing but the standard library, as cells' programs have it.
package grant

import "github.com/elotl/kip/v2/internal/imagecache/layer"

// Path is where a cell asks Kip, with a POST of a Question.
const Path = "/kip/v1/image-cache/grant"

// Question is about an image that the cell's pod names.
type Question struct {
	// Image is the reference, as containerd has it ("docker.io/library/nginx:1.27").
	Image string `json:"image"`
	// Manifest is the digest of the manifest that containerd found, that of the
	// cell's platform.
	Manifest string `json:"manifest"`
	// Have is how many of the image's layers the cell was granted already. Kip
	// answers when there are more, or none come any more, or within seconds.
	Have int `json:"have,omitempty"`
}

// Answer has no layers, and none that come, if the cell may not have any, or there
// are none: it then pulls the image as ever.
type Answer struct {
	// Layers are all of the image's, the lowest first; of an image that is being
	// fetched those that have come.
	Layers []layer.Layer `json:"layers,omitempty"`
	// Coming says that more layers are being fetched, for which it is better to
	// ask again than to pull them.
	Coming bool `json:"coming,omitempty"`
	// Login is what the pod's own pull secrets have for the registry, for a
	// cell that must fetch a layer from there after all.
	Login *Login `json:"login,omitempty"`
}

// Login is a user name and password for the image's registry.
type Login struct {
	Username string `json:"username"`
	Password string `json:"password"`
}
