package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"

	corev1 "k8s.io/api/core/v1"
	storagev1 "k8s.io/api/storage/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/validation"
)

// What a cell may read because its pod refers to it: Secrets, ConfigMaps,
// claims and their volumes. The API server answers, as it would the node; ConfigMaps
// that are followed are in followed.go.

func (c *call) getSecret() error {
	if err := c.refersToSecret(c.req.name); err != nil {
		return err
	}
	return c.forward(upstreamRequest{method: http.MethodGet, path: c.req.path()})
}

func (c *call) getConfigMap() error {
	if err := c.refersToConfigMap(c.req.name); err != nil {
		return err
	}
	return c.forward(upstreamRequest{method: http.MethodGet, path: c.req.path()})
}

// selected is the name of the one object that a list or watch is of, which is how
// a kubelet keeps up with what its pod refers to.
func (c *call) selected() (string, error) {
	name, ok := c.req.selectedName()
	if !ok {
		return "", refuse("%s can only be selected by metadata.name=NAME", c.req.resource.Resource)
	}
	return name, nil
}

// selectSecret forwards a list or watch of exactly one Secret by name.
func (c *call) selectSecret() error {
	name, err := c.selected()
	if err != nil {
		return err
	}
	if err := c.refersToSecret(name); err != nil {
		return err
	}
	request := upstreamRequest{method: http.MethodGet, path: c.req.path(), query: c.req.upstreamQuery(name)}
	c.filter = c.noteMissing
	if c.req.verb == "watch" {
		return c.forwardWatch(request)
	}
	return c.forward(request)
}

// refersToSecret makes sure that the pod, or one of its volumes, refers to a
// Secret of the request's namespace.
func (c *call) refersToSecret(name string) error {
	if c.pod == nil {
		return c.noPod()
	}
	if podSecrets(c.pod).has(c.req.namespace, name) {
		return nil
	}
	for claim := range podClaims(c.pod) {
		volume, err := c.boundVolume(claim)
		if err != nil {
			return err
		}
		if volume != nil && volumeSecrets(volume).has(c.req.namespace, name) {
			return nil
		}
	}
	return refuse("the pod of this cell does not refer to it")
}

func (c *call) refersToConfigMap(name string) error {
	if c.pod == nil {
		return c.noPod()
	}
	if podConfigMaps(c.pod).has(c.req.namespace, name) {
		return nil
	}
	return refuse("the pod of this cell does not refer to it")
}

// noPod is the error of a request that needs a pod, when there is none. A
// kubelet whose pod has just gone asks a little longer for what it referred to;
// one that never had a pod has nothing to ask.
func (c *call) noPod() error {
	if c.cell.PodUID != "" {
		return apierrors.NewNotFound(c.req.resource.GroupResource(), c.req.name)
	}
	return refuse("this cell has no pod")
}

func (c *call) usesClaim() error {
	if c.pod == nil {
		return c.noPod()
	}
	if !podClaims(c.pod).has(c.req.namespace, c.req.name) {
		return refuse("the pod of this cell does not use it")
	}
	return nil
}

func (c *call) getClaim() error {
	if err := c.usesClaim(); err != nil {
		return err
	}
	return c.forward(upstreamRequest{method: http.MethodGet, path: c.req.path()})
}

// patchClaimStatus forwards what a kubelet reports of a volume that it has
// expanded. The API server lets a node change no more than that.
func (c *call) patchClaimStatus() error {
	if err := c.usesClaim(); err != nil {
		return err
	}
	patch, patchType, err := c.readPatch()
	if err != nil {
		return err
	}
	for key := range patch {
		if key != "status" && key != "metadata" {
			return refuse("a kubelet changes nothing of a claim but its status")
		}
	}
	if meta, ok := patch["metadata"]; ok {
		fields, _ := meta.(map[string]any)
		for key := range fields {
			if key != "resourceVersion" && key != "uid" {
				return refuse("a kubelet changes nothing of a claim but its status")
			}
		}
		if fields == nil {
			return invalid("metadata is no object")
		}
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encoding the patch: %w", err)
	}
	return c.forward(upstreamRequest{method: http.MethodPatch, path: c.req.path(), contentType: string(patchType), body: body})
}

// getVolume answers with a volume that one of the pod's claims is bound to.
func (c *call) getVolume() error {
	if c.pod == nil {
		return c.noPod()
	}
	for claim := range podClaims(c.pod) {
		name, err := c.boundVolumeName(claim)
		if err != nil {
			return err
		}
		if name != c.req.name {
			continue
		}
		volume, data, err := c.fetchVolume(name)
		if err != nil {
			return err
		}
		if isBound(volume, claim) {
			return c.writeJSON(http.StatusOK, data)
		}
	}
	return refuse("no claim of the pod of this cell is bound to it")
}

// getVolumeAttachment answers how far the attachment of one of the pod's
// volumes to the node has come.
func (c *call) getVolumeAttachment() error {
	if c.pod == nil {
		return c.noPod()
	}
	own := podClaims(c.pod)
	if len(own) == 0 {
		return refuse("the pod of this cell has no persistent volume")
	}
	var attachment storagev1.VolumeAttachment
	data, err := c.fetch(c.req.path(), &attachment)
	if err != nil {
		return err
	}
	volume := attachment.Spec.Source.PersistentVolumeName
	if attachment.Spec.NodeName == c.cell.NodeName && volume != nil {
		for claim := range own {
			name, err := c.boundVolumeName(claim)
			if err != nil {
				return err
			}
			if name == *volume {
				return c.writeJSON(http.StatusOK, data)
			}
		}
	}
	return refuse("it is not an attachment of this cell's volume")
}

// boundVolumeName is the name of the volume that a claim says it is bound to,
// empty if there is none yet.
func (c *call) boundVolumeName(ref reference) (string, error) {
	// The API server lets a pod name a claim, and a claim a volume, that could
	// not exist. Such a name must not become a path.
	if !isObjectName(ref.name) {
		return "", nil
	}
	var claim corev1.PersistentVolumeClaim
	_, err := c.fetch(pathOf(claims, ref), &claim)
	switch {
	case apierrors.IsNotFound(err):
		return "", nil // it may come yet
	case err != nil:
		return "", err
	case !isObjectName(claim.Spec.VolumeName):
		return "", nil
	}
	return claim.Spec.VolumeName, nil
}

// boundVolume is the volume that a claim is bound to, nil if there is none.
func (c *call) boundVolume(claim reference) (*corev1.PersistentVolume, error) {
	name, err := c.boundVolumeName(claim)
	if err != nil || name == "" {
		return nil, err
	}
	volume, _, err := c.fetchVolume(name)
	switch {
	case apierrors.IsNotFound(err):
		return nil, nil
	case err != nil:
		return nil, err
	case !isBound(volume, claim):
		return nil, nil
	}
	return volume, nil
}

func (c *call) fetchVolume(name string) (*corev1.PersistentVolume, []byte, error) {
	var volume corev1.PersistentVolume
	data, err := c.fetch(pathOf(volumes, reference{name: name}), &volume)
	return &volume, data, err
}

// csiVolumes are the volumes of CSI drivers that the pod's claims are bound to.
func (c *call) csiVolumes() ([]*corev1.PersistentVolume, error) {
	var found []*corev1.PersistentVolume
	for claim := range podClaims(c.pod) {
		volume, err := c.boundVolume(claim)
		if err != nil {
			return nil, err
		}
		if volume != nil && volume.Spec.CSI != nil {
			found = append(found, volume)
		}
	}
	return found, nil
}

// csiDriver is what the cluster knows of a CSI driver, nil if that is nothing.
func (c *call) csiDriver(name string) (*storagev1.CSIDriver, error) {
	shared := c.g.sharedResource(csiDrivers)
	if err := c.g.waitSynced(c.ctx, shared); err != nil {
		return nil, err
	}
	object := shared.collection.Get("", name)
	if object == nil {
		return nil, nil
	}
	driver := &storagev1.CSIDriver{}
	if err := object.Decode(driver); err != nil {
		return nil, fmt.Errorf("reading CSIDriver %s: %w", name, err)
	}
	return driver, nil
}

// isBound tells whether a volume is bound to a claim. A claim can name any
// volume; what counts is whom the volume names.
func isBound(volume *corev1.PersistentVolume, claim reference) bool {
	ref := volume.Spec.ClaimRef
	return ref != nil && ref.Namespace == claim.namespace && ref.Name == claim.name
}

// isObjectName tells whether an object can have a name, so that it can stand
// in a path.
func isObjectName(name string) bool { return len(validation.IsDNS1123Subdomain(name)) == 0 }

// pathOf is the path of one object.
func pathOf(resource schema.GroupVersionResource, ref reference) string {
	return (&request{resource: resource, namespace: ref.namespace, name: ref.name}).path()
}
