package hollowcell

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"sync"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// worker does for one pod what a kubelet's worker of it asks.
type worker struct {
	*kubelet
	uid  types.UID
	stop context.CancelFunc
	news chan struct{} // capacity 1

	mu  sync.Mutex
	pod *corev1.Pod // the newest; nobody changes it

	// What follows belongs to run.
	started, runs metav1.Time
	load          func() // ends what the annotation asked for; nil if there is nothing
	loadOf        string
}

// update makes pod the newest state.
func (w *worker) update(pod *corev1.Pod) {
	w.mu.Lock()
	w.pod = pod
	w.mu.Unlock()
	select {
	case w.news <- struct{}{}:
	default:
	}
}

func (w *worker) newest() *corev1.Pod {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.pod
}

// run looks after the pod until ctx ends or the pod has.
func (w *worker) run(ctx context.Context) {
	var tasks sync.WaitGroup
	defer tasks.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	for {
		select {
		case <-w.news:
		case <-ctx.Done():
			return
		}
		pod := w.newest()
		switch {
		case pod.DeletionTimestamp != nil:
			w.end(ctx, pod)
			return
		case w.started.IsZero():
			w.start(ctx, &tasks, pod)
		}
		w.setLoad(ctx, &tasks, pod.Annotations[loadAnnotation])
	}
}

// start is the way to a pod that runs: what it refers to is watched, and what happens is told, as if an image were
// pulled.
func (w *worker) start(ctx context.Context, tasks *sync.WaitGroup, pod *corev1.Pod) {
	w.started = metav1.Now()
	w.tell(ctx, pod, w.status(pod, corev1.PodPending, corev1.ConditionFalse, waiting))
	for _, path := range references(pod) {
		tasks.Go(func() { w.follow(ctx, path.collection, named(path.name), nil) })
	}
	w.getToken(ctx, pod)
	w.tell(ctx, pod, w.status(pod, corev1.PodPending, corev1.ConditionTrue, waiting))
	for _, e := range [][2]string{
		{"Pulling", "Pulling image"}, {"Pulled", "Successfully pulled image"}, {"Created", "Container created"}, {"Started", "Container started"},
	} {
		w.event(ctx, pod, e[0], e[1])
	}
	w.runs = metav1.Now()
	w.tell(ctx, pod, w.status(pod, corev1.PodRunning, corev1.ConditionTrue, w.running))
	tasks.Go(func() { w.report(ctx, pod) })
}

// end is the way out of a pod that is deleted.
func (w *worker) end(ctx context.Context, pod *corev1.Pod) {
	if !w.runs.IsZero() {
		w.event(ctx, pod, "Killing", "Stopping container")
	}
	w.tell(ctx, pod, w.status(pod, corev1.PodSucceeded, corev1.ConditionFalse, w.ended))
	grace := int64(0)
	w.insist(ctx, func() error {
		return w.ask(ctx, http.MethodDelete, podPath(pod), mediaTypeJSON, &metav1.DeleteOptions{
			TypeMeta:           metav1.TypeMeta{APIVersion: "v1", Kind: "DeleteOptions"},
			GracePeriodSeconds: &grace, Preconditions: metav1.NewUIDPreconditions(string(pod.UID)),
		}, nil)
	})
}

// insist repeats what a kubelet does not give up.
func (w *worker) insist(ctx context.Context, try func() error) {
	for backoff := minBackoff; try() != nil; backoff = min(2*backoff, maxBackoff) {
		if !sleep(ctx, backoff) {
			return
		}
	}
}

func podPath(pod *corev1.Pod) string {
	return "/api/v1/namespaces/" + pod.Namespace + "/pods/" + pod.Name
}

// tell reports a status, as a kubelet's status manager does: it looks first.
func (w *worker) tell(ctx context.Context, pod *corev1.Pod, status corev1.PodStatus) {
	w.insist(ctx, func() error {
		if err := w.ask(ctx, http.MethodGet, podPath(pod), "", nil, nil); err != nil {
			return err
		}
		return w.ask(ctx, http.MethodPatch, podPath(pod)+"/status", mediaTypePatch, map[string]any{
			"metadata": map[string]any{"uid": pod.UID}, "status": status,
		}, nil)
	})
}

// status is that of a pod all of whose containers are in one state.
func (w *worker) status(pod *corev1.Pod, phase corev1.PodPhase, sandbox corev1.ConditionStatus, state func() corev1.ContainerState) corev1.PodStatus {
	ready := corev1.ConditionFalse
	if phase == corev1.PodRunning {
		ready = corev1.ConditionTrue
	}
	s := corev1.PodStatus{Phase: phase, StartTime: &w.started, HostIP: w.instance.Primary.String()}
	s.HostIPs = []corev1.HostIP{{IP: s.HostIP}}
	if sandbox == corev1.ConditionTrue {
		s.PodIP = w.instance.Pod.String()
		s.PodIPs = []corev1.PodIP{{IP: s.PodIP}}
	}
	for kind, value := range map[corev1.PodConditionType]corev1.ConditionStatus{
		corev1.PodReadyToStartContainers: sandbox, corev1.PodInitialized: corev1.ConditionTrue,
		corev1.PodReady: ready, corev1.ContainersReady: ready, corev1.PodScheduled: corev1.ConditionTrue,
	} {
		s.Conditions = append(s.Conditions, corev1.PodCondition{Type: kind, Status: value, LastTransitionTime: metav1.Now()})
	}
	for i := range pod.Spec.Containers {
		c := &pod.Spec.Containers[i]
		is := corev1.ContainerStatus{Name: c.Name, Image: c.Image, State: state(), Ready: ready == corev1.ConditionTrue, Started: new(ready == corev1.ConditionTrue)}
		if is.State.Waiting == nil {
			is.ImageID, is.ContainerID = c.Image, fmt.Sprintf("hollow://%s-%d", w.uid, i)
		}
		s.ContainerStatuses = append(s.ContainerStatuses, is)
	}
	return s
}

func waiting() corev1.ContainerState {
	return corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ContainerCreating"}}
}

func (w *worker) running() corev1.ContainerState {
	return corev1.ContainerState{Running: &corev1.ContainerStateRunning{StartedAt: w.runs}}
}

func (w *worker) ended() corev1.ContainerState {
	return corev1.ContainerState{Terminated: &corev1.ContainerStateTerminated{Reason: "Completed", StartedAt: w.runs, FinishedAt: metav1.Now()}}
}

// event tells what happened to the pod's first container. An event that fails is lost.
func (w *worker) event(ctx context.Context, pod *corev1.Pod, reason, message string) {
	now := metav1.Now()
	_ = w.ask(ctx, http.MethodPost, "/api/v1/namespaces/"+pod.Namespace+"/events", mediaTypeJSON, &corev1.Event{
		TypeMeta:   metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta: metav1.ObjectMeta{Namespace: pod.Namespace, Name: fmt.Sprintf("%s.%x", pod.Name, now.UnixNano())},
		InvolvedObject: corev1.ObjectReference{
			APIVersion: "v1", Kind: "Pod", Namespace: pod.Namespace, Name: pod.Name, UID: pod.UID,
			FieldPath: "spec.containers{" + pod.Spec.Containers[0].Name + "}",
		},
		Reason: reason, Message: message, Type: corev1.EventTypeNormal, Count: 1, FirstTimestamp: now, LastTimestamp: now,
		Source: corev1.EventSource{Component: "kubelet", Host: w.node},
	}, nil)
}

// reference is an object that a pod refers to.
type reference struct{ collection, name string }

// references are the ConfigMaps and Secrets of the pod's volumes, which is where hollow pods have any.
func references(pod *corev1.Pod) []reference {
	var all []reference
	add := func(resource, name string) {
		if name != "" {
			all = append(all, reference{"/api/v1/namespaces/" + pod.Namespace + "/" + resource, name})
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		switch {
		case v.ConfigMap != nil:
			add("configmaps", v.ConfigMap.Name)
		case v.Secret != nil:
			add("secrets", v.Secret.SecretName)
		case v.Projected != nil:
			for _, source := range v.Projected.Sources {
				if source.ConfigMap != nil {
					add("configmaps", source.ConfigMap.Name)
				}
				if source.Secret != nil {
					add("secrets", source.Secret.Name)
				}
			}
		}
	}
	return all
}

// getToken asks for the tokens of the pod's volumes.
func (w *worker) getToken(ctx context.Context, pod *corev1.Pod) {
	for i := range pod.Spec.Volumes {
		projected := pod.Spec.Volumes[i].Projected
		if projected == nil {
			continue
		}
		for _, source := range projected.Sources {
			t := source.ServiceAccountToken
			if t == nil {
				continue
			}
			request := authenticationv1.TokenRequest{
				TypeMeta: metav1.TypeMeta{APIVersion: authenticationv1.SchemeGroupVersion.String(), Kind: "TokenRequest"},
				Spec: authenticationv1.TokenRequestSpec{
					ExpirationSeconds: t.ExpirationSeconds,
					BoundObjectRef:    &authenticationv1.BoundObjectReference{APIVersion: "v1", Kind: "Pod", Name: pod.Name, UID: pod.UID},
				},
			}
			if t.Audience != "" {
				request.Spec.Audiences = []string{t.Audience}
			}
			account := cmp.Or(pod.Spec.ServiceAccountName, "default")
			w.insist(ctx, func() error {
				return w.ask(ctx, http.MethodPost, "/api/v1/namespaces/"+pod.Namespace+"/serviceaccounts/"+account+"/token", mediaTypeJSON, &request, nil)
			})
		}
	}
}
