package v1beta1

import (
	"crypto/sha256"
	"encoding/hex"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// CachedImage is an image of which the image cache has the layers. It says what
// is in the cache's files and what they must be: the share that has them is
// trusted by nobody.
//
// +kubebuilder:object:root=true
// +kubebuilder:subresource:status
// +kubebuilder:resource:scope=Cluster
// +kubebuilder:printcolumn:name="Repository",type=string,JSONPath=`.spec.repository`
// +kubebuilder:printcolumn:name="Architecture",type=string,JSONPath=`.spec.architecture`
// +kubebuilder:printcolumn:name="Ready",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].status`
// +kubebuilder:printcolumn:name="Reason",type=string,JSONPath=`.status.conditions[?(@.type=="Ready")].reason`
// +kubebuilder:printcolumn:name="Bytes",type=integer,JSONPath=`.status.size`
// +kubebuilder:printcolumn:name="Last-Used",type=date,JSONPath=`.status.lastUsed`
// +kubebuilder:printcolumn:name="Digest",type=string,priority=1,JSONPath=`.spec.digest`
type CachedImage struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Spec   CachedImageSpec   `json:"spec"`
	Status CachedImageStatus `json:"status,omitempty"`
}

// CachedImageList is a list of CachedImages.
//
// +kubebuilder:object:root=true
type CachedImageList struct {
	metav1.TypeMeta `json:",inline"`
	metav1.ListMeta `json:"metadata,omitempty"`
	Items           []CachedImage `json:"items"`
}

// CachedImageSpec names an image for one platform. It never changes.
type CachedImageSpec struct {
	// Repository with its registry's host ("docker.io/library/nginx"). The same
	// image of another repository is another CachedImage: who may pull the one
	// may not pull the other.
	Repository string `json:"repository"`
	// Digest of the platform's manifest.
	Digest string `json:"digest"`
	// Architecture in Kubernetes' words.
	Architecture string `json:"architecture"`
}

// CachedImageStatus is what the cache has.
type CachedImageStatus struct {
	// Conditions: Ready.
	// +optional
	// +listType=map
	// +listMapKey=type
	Conditions []metav1.Condition `json:"conditions,omitempty"`
	// Layers, the lowest first. While they are being fetched they are those that
	// have come.
	// +optional
	Layers []CachedLayer `json:"layers,omitempty"`
	// Size of the layers' files in bytes. Other images may share them.
	// +optional
	Size int64 `json:"size,omitempty"`
	// FetchedBy is set while layers are being fetched: cells wait for them, and
	// no longer than until then.
	// +optional
	FetchedBy *metav1.Time `json:"fetchedBy,omitempty"`
	// LastUsed is when a pod last had the image, to within an hour.
	// +optional
	LastUsed *metav1.Time `json:"lastUsed,omitempty"`
}

// CachedLayer is a file of the cache.
type CachedLayer struct {
	// Digest as the manifest has it, and DiffID, that of the uncompressed archive.
	Digest string `json:"digest"`
	DiffID string `json:"diffID"`
	// Path from the share's root.
	Path string `json:"path"`
	// Size of the file system in bytes.
	Size int64 `json:"size"`
	// Root of the tree of hashes, in hexadecimal.
	Root string `json:"root"`
	// LowestOnly: the archive leaves a directory's owner and mode to the layers
	// beneath, so there may be none.
	// +optional
	LowestOnly bool `json:"lowestOnly,omitempty"`
}

// Reasons of ConditionReady of a CachedImage: whether cells may use it.
const (
	// ReasonCached: all layers are there.
	ReasonCached = "Cached"
	// ReasonFetching: layers are being fetched. Cells use those that are there.
	ReasonFetching = "Fetching"
	// ReasonNotFetched: they could not be; it is tried again.
	ReasonNotFetched = "NotFetched"
	// ReasonNotCacheable: a layer cannot be a file system by itself.
	ReasonNotCacheable = "NotCacheable"
)

// CachedImageName is the name of the CachedImage of a repository's image.
func CachedImageName(repository, digest string) string {
	sum := sha256.Sum256([]byte(repository + "@" + digest))
	return hex.EncodeToString(sum[:20])
}
