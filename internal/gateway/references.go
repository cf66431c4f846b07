package gateway

import (
	corev1 "k8s.io/api/core/v1"
)

// reference names an object that something refers to.
type reference struct{ namespace, name string }

// references are the objects that a pod, or a volume, refers to by name.
type references map[reference]struct{}

func (r references) add(namespace, name string) {
	if name != "" {
		r[reference{namespace, name}] = struct{}{}
	}
}

func (r references) local(namespace string, ref *corev1.LocalObjectReference) {
	if ref != nil {
		r.add(namespace, ref.Name)
	}
}

// in adds a reference that may name a namespace, or else means otherwise.
func (r references) in(otherwise string, ref *corev1.SecretReference) {
	switch {
	case ref == nil:
	case ref.Namespace != "":
		r.add(ref.Namespace, ref.Name)
	default:
		r.add(otherwise, ref.Name)
	}
}

func (r references) has(namespace, name string) bool {
	_, ok := r[reference{namespace, name}]
	return ok
}

// podSecrets are the Secrets that a pod refers to, all of its own namespace.
// Those that its persistent volumes refer to are not among them.
func podSecrets(pod *corev1.Pod) references {
	refs, ns := references{}, pod.Namespace
	for i := range pod.Spec.ImagePullSecrets {
		refs.local(ns, &pod.Spec.ImagePullSecrets[i])
	}
	eachSecret(pod, func(name string, _ *bool) { refs.add(ns, name) })
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i].VolumeSource
		// One of these is set; to look at all costs nothing and forgets none.
		if v.CSI != nil {
			refs.local(ns, v.CSI.NodePublishSecretRef)
		}
		if v.FlexVolume != nil {
			refs.local(ns, v.FlexVolume.SecretRef)
		}
		if v.AzureFile != nil {
			refs.add(ns, v.AzureFile.SecretName)
		}
		if v.CephFS != nil {
			refs.local(ns, v.CephFS.SecretRef)
		}
		if v.Cinder != nil {
			refs.local(ns, v.Cinder.SecretRef)
		}
		if v.ISCSI != nil {
			refs.local(ns, v.ISCSI.SecretRef)
		}
		if v.RBD != nil {
			refs.local(ns, v.RBD.SecretRef)
		}
		if v.ScaleIO != nil {
			refs.local(ns, v.ScaleIO.SecretRef)
		}
		if v.StorageOS != nil {
			refs.local(ns, v.StorageOS.SecretRef)
		}
	}
	return refs
}

// podConfigMaps are the ConfigMaps that a pod refers to.
func podConfigMaps(pod *corev1.Pod) references {
	refs := references{}
	eachConfigMap(pod, func(name string, _ *bool) { refs.add(pod.Namespace, name) })
	return refs
}

// eachSecret visits a pod's references to Secrets that may be optional: those by
// environment and by volumes of Secrets.
func eachSecret(pod *corev1.Pod, visit func(name string, optional *bool)) {
	eachContainer(&pod.Spec, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				visit(e.ValueFrom.SecretKeyRef.Name, e.ValueFrom.SecretKeyRef.Optional)
			}
		}
		for _, e := range from {
			if e.SecretRef != nil {
				visit(e.SecretRef.Name, e.SecretRef.Optional)
			}
		}
	})
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i].VolumeSource
		if v.Secret != nil {
			visit(v.Secret.SecretName, v.Secret.Optional)
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				if source.Secret != nil {
					visit(source.Secret.Name, source.Secret.Optional)
				}
			}
		}
	}
}

// eachConfigMap visits a pod's references to ConfigMaps.
func eachConfigMap(pod *corev1.Pod, visit func(name string, optional *bool)) {
	eachContainer(&pod.Spec, func(env []corev1.EnvVar, from []corev1.EnvFromSource) {
		for _, e := range env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				visit(e.ValueFrom.ConfigMapKeyRef.Name, e.ValueFrom.ConfigMapKeyRef.Optional)
			}
		}
		for _, e := range from {
			if e.ConfigMapRef != nil {
				visit(e.ConfigMapRef.Name, e.ConfigMapRef.Optional)
			}
		}
	})
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i].VolumeSource
		if v.ConfigMap != nil {
			visit(v.ConfigMap.Name, v.ConfigMap.Optional)
		}
		if v.Projected != nil {
			for _, source := range v.Projected.Sources {
				if source.ConfigMap != nil {
					visit(source.ConfigMap.Name, source.ConfigMap.Optional)
				}
			}
		}
	}
}

// podClaims are the PersistentVolumeClaims that a pod uses, also those made
// for its ephemeral volumes.
func podClaims(pod *corev1.Pod) references {
	refs := references{}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.PersistentVolumeClaim != nil {
			refs.add(pod.Namespace, v.PersistentVolumeClaim.ClaimName)
		}
		if v.Ephemeral != nil {
			refs.add(pod.Namespace, pod.Name+"-"+v.Name)
		}
	}
	return refs
}

// eachContainer visits the environment of the containers of every sort.
func eachContainer(spec *corev1.PodSpec, visit func([]corev1.EnvVar, []corev1.EnvFromSource)) {
	for i := range spec.InitContainers {
		visit(spec.InitContainers[i].Env, spec.InitContainers[i].EnvFrom)
	}
	for i := range spec.Containers {
		visit(spec.Containers[i].Env, spec.Containers[i].EnvFrom)
	}
	for i := range spec.EphemeralContainers {
		visit(spec.EphemeralContainers[i].Env, spec.EphemeralContainers[i].EnvFrom)
	}
}

// volumeSecrets are the Secrets that a node needs to mount a persistent
// volume. Those that only a CSI controller needs are not among them.
func volumeSecrets(volume *corev1.PersistentVolume) references {
	refs := references{}
	claimNamespace := ""
	if volume.Spec.ClaimRef != nil {
		claimNamespace = volume.Spec.ClaimRef.Namespace
	}
	v := &volume.Spec.PersistentVolumeSource
	if v.CSI != nil {
		refs.in(claimNamespace, v.CSI.NodeStageSecretRef)
		refs.in(claimNamespace, v.CSI.NodePublishSecretRef)
		refs.in(claimNamespace, v.CSI.NodeExpandSecretRef)
	}
	if v.FlexVolume != nil {
		refs.in(claimNamespace, v.FlexVolume.SecretRef)
	}
	if v.AzureFile != nil {
		ref := corev1.SecretReference{Name: v.AzureFile.SecretName}
		if v.AzureFile.SecretNamespace != nil {
			ref.Namespace = *v.AzureFile.SecretNamespace
		}
		refs.in(claimNamespace, &ref)
	}
	if v.CephFS != nil {
		refs.in(claimNamespace, v.CephFS.SecretRef)
	}
	if v.Cinder != nil {
		refs.in(claimNamespace, v.Cinder.SecretRef)
	}
	if v.ISCSI != nil {
		refs.in(claimNamespace, v.ISCSI.SecretRef)
	}
	if v.RBD != nil {
		refs.in(claimNamespace, v.RBD.SecretRef)
	}
	if v.ScaleIO != nil {
		refs.in(claimNamespace, v.ScaleIO.SecretRef)
	}
	if v.StorageOS != nil && v.StorageOS.SecretRef != nil {
		refs.in(claimNamespace, &corev1.SecretReference{Namespace: v.StorageOS.SecretRef.Namespace, Name: v.StorageOS.SecretRef.Name})
	}
	return refs
}
