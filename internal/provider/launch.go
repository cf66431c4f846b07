package provider

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/equality"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/config"
)

// Annotations by which a pod speaks about its instance; those about the
// instance type are instancetype's.
const (
	annotationPrivateIPOnly   = "pod.elotl.co/private-ip-only"
	annotationSecurityGroups  = "pod.elotl.co/security-groups"
	annotationInstanceProfile = "pod.elotl.co/instance-profile"
	annotationCloudRoute      = "pod.elotl.co/cloud-route"
	annotationHealthyTimeout  = "pod.elotl.co/healthcheck-healthy-timeout"
)

// maxRoutes is how many routes EC2 allows in a route table, if nobody had that
// raised.
const maxRoutes = 50

// wish is what the pod's Cell should say. An error is the user's to correct;
// it names the annotation or field.
func (p *Provider) wish(pod *corev1.Pod) (v1beta1.CellSpec, error) {
	req, err := p.Defaults.Requirements(pod)
	if err != nil {
		return v1beta1.CellSpec{}, err
	}
	settings, err := instanceSettings(pod)
	if err != nil {
		return v1beta1.CellSpec{}, err
	}
	return v1beta1.CellSpec{
		NodeName:     p.NodeName,
		Pod:          &v1beta1.PodReference{Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID},
		Requirements: req,
		Instance:     settings,
	}, nil
}

// resolvedWish is the wish with the architectures that the pod's images are
// made for; known is false while registries are being asked.
func (p *Provider) resolvedWish(pod *corev1.Pod) (spec v1beta1.CellSpec, known bool, err error) {
	spec, err = p.wish(pod)
	if err != nil || len(spec.Requirements.Architectures) <= 1 {
		return spec, true, err
	}
	images, known := p.Architectures(pod)
	if known {
		p.Defaults.ForImages(&spec.Requirements, pod, images)
	}
	return spec, known, nil
}

func instanceSettings(pod *corev1.Pod) (v1beta1.InstanceSettings, error) {
	var s v1beta1.InstanceSettings
	switch v, ok := pod.Annotations[annotationPrivateIPOnly]; {
	case !ok:
	case v == "true" || v == "false":
		private := v == "true"
		s.PrivateIPOnly = &private
	default:
		return s, fmt.Errorf("annotation %s is %q; it takes true or false", annotationPrivateIPOnly, v)
	}
	for g := range strings.SplitSeq(pod.Annotations[annotationSecurityGroups], ",") {
		if g = strings.TrimSpace(g); g == "" {
			continue
		}
		if !strings.HasPrefix(g, "sg-") {
			return s, fmt.Errorf("annotation %s names %q; it takes security group IDs such as sg-0123456789abcdef0, separated by commas", annotationSecurityGroups, g)
		}
		s.SecurityGroups = append(s.SecurityGroups, g)
	}
	s.InstanceProfile = pod.Annotations[annotationInstanceProfile]
	if v, ok := pod.Annotations[annotationHealthyTimeout]; ok {
		seconds, err := config.ParseHealthyTimeout(v)
		if err != nil {
			return s, fmt.Errorf("annotation %s: %w", annotationHealthyTimeout, err)
		}
		s.HealthyTimeoutSeconds = &seconds
	}
	var err error
	s.Routes, err = routes(pod.Annotations[annotationCloudRoute])
	return s, err
}

// routes reads the networks that are to lead to the pod's instance. The cloud
// would take 10.20.30.40/24 for 10.20.30.0/24, and so does this.
func routes(value string) ([]string, error) {
	var networks []string
	for _, field := range config.Fields(value) {
		network, err := netip.ParsePrefix(field)
		if err != nil || !network.Addr().Is4() {
			return nil, fmt.Errorf("annotation %s names %q; it takes IPv4 networks such as 10.20.0.0/16, separated by commas or spaces", annotationCloudRoute, field)
		}
		networks = append(networks, network.Masked().String())
	}
	if len(networks) > maxRoutes {
		return nil, fmt.Errorf("annotation %s names %d networks; it takes at most %d", annotationCloudRoute, len(networks), maxRoutes)
	}
	slices.Sort(networks)
	return slices.Compact(networks), nil
}

// CellName derives the name of a pod's cell. It starts with the pod's name for
// the reader and ends with a hash of what tells attempts apart.
func CellName(pod *corev1.Pod, attempt int32) string {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s/%d", pod.UID, attempt))
	// 63 characters at most: the name is a host name and a label value too.
	readable := strings.ReplaceAll(pod.Name, ".", "-")
	if len(readable) > 52 {
		readable = readable[:52]
	}
	return strings.TrimRight(readable, "-") + "-" + hex.EncodeToString(sum[:5])
}

// launch makes the pod's Cell. The Cell is the intent; the cloud is not called
// here.
func (p *Provider) launch(ctx context.Context, pod *corev1.Pod, spec v1beta1.CellSpec, attempt int32) error {
	spec.Attempt = attempt
	cell := &v1beta1.Cell{
		ObjectMeta: metav1.ObjectMeta{
			Name:       CellName(pod, attempt),
			Labels:     map[string]string{v1beta1.LabelNode: p.NodeName, v1beta1.LabelPodUID: string(pod.UID)},
			Finalizers: []string{v1beta1.Finalizer},
		},
		Spec: spec,
	}
	err := p.Client.Create(ctx, cell)
	if apierrors.IsAlreadyExists(err) {
		// Made before a crash or before the cache heard of it; its own event
		// brings the reconciler back.
		return nil
	}
	if err != nil {
		return fmt.Errorf("writing the cell of the pod: %w", err)
	}
	p.Log.Info("cell made", "pod", pod.Namespace+"/"+pod.Name, "cell", cell.Name, "attempt", attempt)
	if p.Standby == nil {
		return nil
	}
	// Another Kip may have found a standby cell for it meanwhile.
	other, err := p.rival(ctx, cell)
	if other == "" || err != nil {
		return err
	}
	return p.deleteCell(ctx, cell, "its pod has standby cell "+other, true)
}

// refresh brings a Cell that has no instance yet up to date with its pod.
func (p *Provider) refresh(ctx context.Context, cell *v1beta1.Cell, spec v1beta1.CellSpec) error {
	spec.Attempt = cell.Spec.Attempt
	if equality.Semantic.DeepEqual(cell.Spec, spec) {
		return nil
	}
	cell = cell.DeepCopy()
	cell.Spec = spec
	if err := p.Client.Update(ctx, cell); err != nil {
		return fmt.Errorf("updating what cell %s asks for: %w", cell.Name, err)
	}
	return nil
}
