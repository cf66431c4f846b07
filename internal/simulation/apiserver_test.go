package simulation

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"time"

	jsonpatch "github.com/evanphx/json-patch/v5"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"sigs.k8s.io/controller-runtime/pkg/client"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// kind is one of the two that there are.
type kind string

const (
	pods  kind = "pods"
	cells kind = "cells"
)

func (k kind) resource() schema.GroupResource {
	if k == cells {
		return v1beta1.GroupVersion.WithResource("cells").GroupResource()
	}
	return corev1.Resource("pods")
}

func kindOf(o client.Object) kind {
	if _, ok := o.(*v1beta1.Cell); ok {
		return cells
	}
	return pods
}

// change is one event of a watch. An object without a successor was removed.
type change struct {
	old, now client.Object
}

// apiServer keeps objects, which nobody changes once they are in. Everything
// happens at once; what lies between it and a Kip is not its business.
type apiServer struct {
	world   *world
	version int
	uids    int
	objects map[kind]map[client.ObjectKey]client.Object
	// log is all that happened, for watches.
	log map[kind][]change
}

func newAPIServer(w *world) *apiServer {
	return &apiServer{world: w,
		objects: map[kind]map[client.ObjectKey]client.Object{pods: {}, cells: {}}, log: map[kind][]change{}}
}

func (a *apiServer) get(k kind, key client.ObjectKey) (client.Object, error) {
	if o := a.objects[k][key]; o != nil {
		return o, nil
	}
	return nil, apierrors.NewNotFound(k.resource(), key.Name)
}

// pod and cell are nil where there is none.
func (a *apiServer) pod(key client.ObjectKey) *corev1.Pod {
	pod, _ := a.objects[pods][key].(*corev1.Pod)
	return pod
}

// list is in the order of names.
func (a *apiServer) list(k kind) []client.Object {
	all := slices.Collect(maps.Values(a.objects[k]))
	slices.SortFunc(all, func(x, y client.Object) int {
		if x.GetNamespace()+"/"+x.GetName() < y.GetNamespace()+"/"+y.GetName() {
			return -1
		}
		return 1
	})
	return all
}

func (a *apiServer) create(o client.Object) (client.Object, error) {
	k, key := kindOf(o), client.ObjectKeyFromObject(o)
	if a.objects[k][key] != nil {
		return nil, apierrors.NewAlreadyExists(k.resource(), key.Name)
	}
	o = o.DeepCopyObject().(client.Object)
	a.uids++
	o.SetUID(types.UID(fmt.Sprintf("%08d-0000-0000-0000-%012d", a.world.seed%1e8, a.uids)))
	o.SetCreationTimestamp(metav1.NewTime(time.Now()))
	if c, ok := o.(*v1beta1.Cell); ok {
		c.Status = v1beta1.CellStatus{}
	}
	return a.put(k, nil, o), nil
}

// put stores a new state. As on the wire, times lose what is less than a second;
// and a state that is no other is no change.
func (a *apiServer) put(k kind, old, now client.Object) client.Object {
	data, err := json.Marshal(now)
	if err != nil {
		a.world.t.Fatal(err)
	}
	if old != nil {
		if before, err := json.Marshal(old); err == nil && bytes.Equal(before, data) {
			return old
		}
	}
	a.version++
	stored := newObject(k)
	if err := json.Unmarshal(data, stored); err != nil {
		a.world.t.Fatal(err)
	}
	stored.SetResourceVersion(strconv.Itoa(a.version))
	key := client.ObjectKeyFromObject(stored)
	if k == cells && stored.GetDeletionTimestamp() != nil && len(stored.GetFinalizers()) == 0 {
		return a.remove(k, old, stored)
	}
	a.objects[k][key] = stored
	a.happened(k, change{old, stored})
	return stored
}

func (a *apiServer) remove(k kind, old, last client.Object) client.Object {
	delete(a.objects[k], client.ObjectKeyFromObject(last))
	a.happened(k, change{old, nil})
	return last
}

func (a *apiServer) happened(k kind, c change) {
	a.log[k] = append(a.log[k], c)
	a.world.check.changed(k, c)
	for _, kip := range a.world.kips {
		kip.cache.news(k)
	}
}

func newObject(k kind) client.Object {
	if k == cells {
		return &v1beta1.Cell{}
	}
	return &corev1.Pod{}
}

func conflict(k kind, name, why string) error {
	return apierrors.NewConflict(k.resource(), name, errors.New(why))
}

// update replaces what status says: the status, or everything else.
func (a *apiServer) update(o client.Object, status bool) (client.Object, error) {
	k, key := kindOf(o), client.ObjectKeyFromObject(o)
	old, err := a.get(k, key)
	if err != nil {
		return nil, err
	}
	if v := o.GetResourceVersion(); v != "" && v != old.GetResourceVersion() {
		return nil, conflict(k, key.Name, "the object has been modified")
	}
	if uid := o.GetUID(); uid != "" && uid != old.GetUID() {
		return nil, conflict(k, key.Name, "another UID")
	}
	return a.put(k, old, merge(old, o, status)), nil
}

// merge is old with the status, or all but the status, of o.
func merge(old, o client.Object, status bool) client.Object {
	now := o.DeepCopyObject().(client.Object)
	was := old.DeepCopyObject().(client.Object)
	switch now := now.(type) {
	case *v1beta1.Cell:
		was := was.(*v1beta1.Cell)
		if status {
			was.Status = now.Status
			return was
		}
		now.Status = was.Status
		now.DeletionTimestamp = was.DeletionTimestamp
	case *corev1.Pod:
		was := was.(*corev1.Pod)
		if status {
			was.Status = now.Status
			return was
		}
		now.Status = was.Status
		now.DeletionTimestamp, now.DeletionGracePeriodSeconds = was.DeletionTimestamp, was.DeletionGracePeriodSeconds
	}
	return now
}

// patch applies a JSON merge patch.
func (a *apiServer) patch(k kind, key client.ObjectKey, data []byte, status bool) (client.Object, error) {
	old, err := a.get(k, key)
	if err != nil {
		return nil, err
	}
	var lock struct {
		Metadata struct {
			ResourceVersion string `json:"resourceVersion"`
		} `json:"metadata"`
	}
	if err := json.Unmarshal(data, &lock); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	if v := lock.Metadata.ResourceVersion; v != "" && v != old.GetResourceVersion() {
		return nil, conflict(k, key.Name, "the object has been modified")
	}
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	after, err := jsonpatch.MergePatch(before, data)
	if err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	now := newObject(k)
	if err := json.Unmarshal(after, now); err != nil {
		return nil, apierrors.NewBadRequest(err.Error())
	}
	return a.put(k, old, merge(old, now, status)), nil
}

// delete does what the API server does with a pod of a node, and with a Cell.
func (a *apiServer) delete(k kind, key client.ObjectKey, o client.DeleteOptions) error {
	old, err := a.get(k, key)
	if err != nil {
		return err
	}
	if p := o.Preconditions; p != nil {
		if p.UID != nil && *p.UID != old.GetUID() {
			return conflict(k, key.Name, "another UID")
		}
		if p.ResourceVersion != nil && *p.ResourceVersion != old.GetResourceVersion() {
			return conflict(k, key.Name, "another version")
		}
	}
	now := old.DeepCopyObject().(client.Object)
	pod, ok := now.(*corev1.Pod)
	if !ok {
		if len(now.GetFinalizers()) == 0 {
			a.remove(k, old, now)
		} else if now.GetDeletionTimestamp() == nil {
			now.SetDeletionTimestamp(new(metav1.NewTime(time.Now())))
			a.put(k, old, now)
		}
		return nil
	}
	grace := int64(corev1.DefaultTerminationGracePeriodSeconds)
	if g := pod.Spec.TerminationGracePeriodSeconds; g != nil {
		grace = *g
	}
	if g := o.GracePeriodSeconds; g != nil {
		grace = *g
	}
	if pod.Status.Phase == corev1.PodSucceeded || pod.Status.Phase == corev1.PodFailed {
		grace = 0
	}
	if grace == 0 {
		a.remove(k, old, pod)
		return nil
	}
	if g := pod.DeletionGracePeriodSeconds; g != nil && *g <= grace {
		return nil
	}
	pod.DeletionTimestamp = new(metav1.NewTime(time.Now().Add(time.Duration(grace) * time.Second)))
	pod.DeletionGracePeriodSeconds = &grace
	a.put(k, old, pod)
	return nil
}
