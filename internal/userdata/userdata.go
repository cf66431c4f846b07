// Package userdata is the document that Kip gives an instance at launch and
// that the agent in it reads.
//
// User data is not secret: a pod on the cell may read it from the instance
// metadata service, and so may anyone who may describe the instance. It
// therefore holds what the agent needs to start containerd and the kubelet,
// and one secret that is worth nothing soon: the enrolment token, which is dead
// once the agent has enrolled.
//
// On the wire it is JSON. User data for cloud-init may go beside it; then both
// are parts of a MIME message. What would not fit plain is gzipped as a whole,
// which cloud-init unpacks as the agent does.
package userdata

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/netip"
)

// APIVersion is the only version this package reads and writes. Within it, fields
// are added and none is changed: an agent ignores what it does not know, but for
// what Document.Requires names (docs/upgrades.md).
const APIVersion = "kip.elotl.co/v1"

// features are what Document.Requires may name: what fields ask for that a pod
// cannot do without and that not every agent in use knows. There is none now.
var features = map[string]bool{}

const (
	// MaxBytes is what EC2 takes as user data, counted before base64.
	MaxBytes = 16 << 10

	// maxPlainBytes bounds what Decode unpacks, so that a small archive that
	// unpacks to gigabytes costs nothing.
	maxPlainBytes = 256 << 10
)

// DefaultMirror is the Mirror host that stands for every registry that no
// other mirror names.
const DefaultMirror = "_default"

// ErrTooLarge says that a document does not fit into user data even compressed.
var ErrTooLarge = errors.New("user data is too large")

// Document is everything the agent knows before it talks to Kip.
type Document struct {
	// APIVersion is APIVersion; Encode fills it in.
	APIVersion string `json:"apiVersion"`

	// Requires are names of what the agent has to be able to do. One that does
	// not know one of them says so and does not become a cell: it would run a pod
	// without what that needs.
	Requires []string `json:"requires,omitempty"`

	// Cell is the cell's name: what the agent's certificate must be for.
	Cell string `json:"cell"`

	// CACertificates are PEM certificates: they say who is Kip, and they sign
	// the certificate that this cell gets.
	CACertificates string `json:"caCertificates"`

	// EnrolmentToken proves, once, that the agent is on the instance that Kip
	// launched for this cell.
	EnrolmentToken string `json:"enrolmentToken"`

	// Node is what the kubelet must be told.
	Node Node `json:"node"`

	// RegistryMirrors are asked for images before the registries themselves.
	RegistryMirrors []Mirror `json:"registryMirrors,omitempty"`

	// SandboxImage is the reference of the image of pod sandboxes.
	SandboxImage string `json:"sandboxImage,omitempty"`

	// ImageCache is where layers of images are that need not be pulled: an NFS
	// server and path ("server:/path"), or a directory of the machine. Empty if
	// there is none.
	ImageCache string `json:"imageCache,omitempty"`

	// Routes are networks that the VPC sends to the cell for its pod.
	Routes []netip.Prefix `json:"routes,omitempty"`

	// GPUs is how many the pod asks for, of the kind nvidia.com/gpu.
	GPUs int32 `json:"gpus,omitempty"`

	// PowerOffAfterSeconds is how long the agent waits for Kip, while no pod
	// should run, before it powers the instance off. 0 means for ever.
	PowerOffAfterSeconds int32 `json:"powerOffAfterSeconds,omitempty"`
}

// Node configures the cell's kubelet.
type Node struct {
	// Name is the virtual node's name.
	Name string `json:"name"`

	// ClusterDNS are the addresses of the cluster's DNS servers.
	ClusterDNS []string `json:"clusterDNS,omitempty"`

	// ClusterDomain is the cluster's DNS domain, such as "cluster.local".
	ClusterDomain string `json:"clusterDomain,omitempty"`

	// MaxContainerLogMiB is the size at which a container's log is rotated;
	// 0 leaves it to the agent.
	MaxContainerLogMiB int32 `json:"maxContainerLogMiB,omitempty"`
}

// Mirror sends image pulls for some registries elsewhere first.
type Mirror struct {
	// Hosts are registry host names; a leading "*." matches any labels before
	// the rest, and DefaultMirror every host.
	Hosts []string `json:"hosts"`

	// Endpoint is the mirror's URL.
	Endpoint string `json:"endpoint"`
}

// Encode returns the document as it is handed to the cloud. It compresses only
// a document that would not fit otherwise: plain user data is readable where it
// is looked at, in the cloud's console. Extra goes beside it, in that order. The
// error is ErrTooLarge, or says which field is wrong.
func Encode(d Document, extra ...*CloudInit) ([]byte, error) {
	d.APIVersion = APIVersion
	if err := d.validate(); err != nil {
		return nil, fmt.Errorf("encoding user data: %w", err)
	}
	plain, err := json.Marshal(d)
	if err != nil {
		return nil, fmt.Errorf("encoding user data: %w", err)
	}
	if len(extra) > 0 {
		if plain, err = join(plain, extra); err != nil {
			return nil, fmt.Errorf("encoding user data: %w", err)
		}
	}
	if len(plain) <= MaxBytes {
		return plain, nil
	}
	if len(plain) > maxPlainBytes {
		return nil, fmt.Errorf("%w: %d bytes, at most %d before compression", ErrTooLarge, len(plain), maxPlainBytes)
	}
	var packed bytes.Buffer
	w, err := gzip.NewWriterLevel(&packed, gzip.BestCompression)
	if err != nil {
		return nil, fmt.Errorf("compressing user data: %w", err)
	}
	if _, err := w.Write(plain); err != nil {
		return nil, fmt.Errorf("compressing user data: %w", err)
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("compressing user data: %w", err)
	}
	if packed.Len() > MaxBytes {
		return nil, fmt.Errorf("%w: %d bytes compressed, at most %d", ErrTooLarge, packed.Len(), MaxBytes)
	}
	return packed.Bytes(), nil
}

// Decode reads what Encode wrote, of this release or of another one. It refuses
// another version, a document that requires what is not known here, and one that
// lacks what the agent cannot do without.
func Decode(data []byte) (Document, error) {
	if len(data) > MaxBytes {
		return Document{}, fmt.Errorf("reading user data: %w: %d bytes, at most %d", ErrTooLarge, len(data), MaxBytes)
	}
	plain := data
	if isGzip(data) {
		var err error
		if plain, err = unpack(data); err != nil {
			return Document{}, fmt.Errorf("reading user data: %w", err)
		}
	}
	if isMessage(plain) {
		var err error
		if plain, err = documentIn(plain); err != nil {
			return Document{}, fmt.Errorf("reading user data: %w", err)
		}
	}
	dec := json.NewDecoder(bytes.NewReader(plain))
	var d Document
	if err := dec.Decode(&d); err != nil {
		return Document{}, fmt.Errorf("reading user data: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return Document{}, errors.New("reading user data: something follows the document")
	}
	if d.APIVersion != APIVersion {
		return Document{}, fmt.Errorf("reading user data: apiVersion is %q, want %q", d.APIVersion, APIVersion)
	}
	for _, name := range d.Requires {
		if !features[name] {
			return Document{}, fmt.Errorf("reading user data: Kip requires %q, which this agent is too old for; the machine image needs a newer one", name)
		}
	}
	if err := d.validate(); err != nil {
		return Document{}, fmt.Errorf("reading user data: %w", err)
	}
	return d, nil
}

func isGzip(data []byte) bool {
	return len(data) >= 2 && data[0] == 0x1f && data[1] == 0x8b
}

func unpack(data []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	plain, err := io.ReadAll(io.LimitReader(r, maxPlainBytes+1))
	if err != nil {
		return nil, fmt.Errorf("unpacking: %w", err)
	}
	if len(plain) > maxPlainBytes {
		return nil, fmt.Errorf("unpacking: %w: more than %d bytes", ErrTooLarge, maxPlainBytes)
	}
	return plain, nil
}
