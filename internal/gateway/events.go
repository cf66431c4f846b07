package gateway

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"slices"
	"strings"
	"unicode/utf8"

	corev1 "k8s.io/api/core/v1"
	eventsv1 "k8s.io/api/events/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
)

const (
	// The API server's limits, in bytes.
	maxEventMessage = 1024
	maxEventReason  = 128
	maxEventAction  = 128

	// eventReporter is who every event of a cell comes from.
	eventReporter = "kubelet"
)

// containerPath is the part of a pod that an event can be about.
var containerPath = regexp.MustCompile(`^spec\.(containers|initContainers|ephemeralContainers)\{[a-z0-9]([-a-z0-9]*[a-z0-9])?\}$`)

// eventKey names an event that the cell has made.
type eventKey struct {
	group string
	reference
}

// createCoreEvent forwards an event about the pod, made anew from what a
// kubelet may say: it cannot speak for anybody else.
func (c *call) createCoreEvent() error {
	var told corev1.Event
	if err := c.decodeBody(&told, corev1.SchemeGroupVersion.WithKind("Event")); err != nil {
		return err
	}
	if c.isAboutNode(&told.InvolvedObject) {
		told.SetGroupVersionKind(corev1.SchemeGroupVersion.WithKind("Event"))
		return c.dropEvent(&told)
	}
	if err := c.checkEvent(told.Name, told.Namespace, told.Type, &told.InvolvedObject); err != nil {
		return err
	}
	event := corev1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: "v1", Kind: "Event"},
		ObjectMeta:          metav1.ObjectMeta{Name: told.Name, Namespace: c.req.namespace},
		InvolvedObject:      aboutPod(&told.InvolvedObject),
		Reason:              truncate(told.Reason, maxEventReason),
		Message:             truncate(told.Message, maxEventMessage),
		Source:              corev1.EventSource{Component: eventReporter, Host: c.cell.NodeName},
		FirstTimestamp:      told.FirstTimestamp,
		LastTimestamp:       told.LastTimestamp,
		Count:               told.Count,
		Type:                told.Type,
		EventTime:           told.EventTime,
		Action:              truncate(told.Action, maxEventAction),
		ReportingController: eventReporter,
		ReportingInstance:   c.cell.NodeName,
	}
	return c.makeEvent(&event, told.Name)
}

// createEvent is createCoreEvent for the events.k8s.io group.
func (c *call) createEvent() error {
	var told eventsv1.Event
	if err := c.decodeBody(&told, eventsv1.SchemeGroupVersion.WithKind("Event")); err != nil {
		return err
	}
	if c.isAboutNode(&told.Regarding) {
		told.SetGroupVersionKind(eventsv1.SchemeGroupVersion.WithKind("Event"))
		return c.dropEvent(&told)
	}
	if err := c.checkEvent(told.Name, told.Namespace, told.Type, &told.Regarding); err != nil {
		return err
	}
	event := eventsv1.Event{
		TypeMeta:            metav1.TypeMeta{APIVersion: eventsv1.SchemeGroupVersion.String(), Kind: "Event"},
		ObjectMeta:          metav1.ObjectMeta{Name: told.Name, Namespace: c.req.namespace},
		Regarding:           aboutPod(&told.Regarding),
		EventTime:           told.EventTime,
		ReportingController: eventReporter,
		ReportingInstance:   c.cell.NodeName,
		Action:              truncate(told.Action, maxEventAction),
		Reason:              truncate(told.Reason, maxEventReason),
		Note:                truncate(told.Note, maxEventMessage),
		Type:                told.Type,
	}
	return c.makeEvent(&event, told.Name)
}

// isAboutNode tells whether an event is about the cell's own node. Every
// kubelet and kube-proxy makes some. They mean nothing to somebody who reads
// the virtual node's.
func (c *call) isAboutNode(about *corev1.ObjectReference) bool {
	return about.Kind == "Node" && about.Name == c.cell.NodeName
}

// dropEvent answers as if the event had been recorded.
func (c *call) dropEvent(event runtime.Object) error {
	c.by = dropped
	return c.writeObject(http.StatusCreated, event)
}

// checkEvent makes sure that an event is about the cell's pod.
func (c *call) checkEvent(name, namespace, kind string, about *corev1.ObjectReference) error {
	switch {
	case c.pod == nil:
		return c.noPod()
	case about.Kind != "Pod" || about.APIVersion != "v1" || about.UID != c.pod.UID ||
		about.Name != c.pod.Name || about.Namespace != c.pod.Namespace:
		return refuse("the event is not about the pod of this cell")
	case c.req.namespace != c.pod.Namespace || (namespace != "" && namespace != c.pod.Namespace):
		return refuse("an event belongs into the namespace of its pod")
	case !isObjectName(name):
		return invalid("the event has no proper name")
	case kind != corev1.EventTypeNormal && kind != corev1.EventTypeWarning:
		return invalid("the event is neither Normal nor Warning")
	}
	return nil
}

// aboutPod is the reference to the pod, which was checked, without the version
// that only the cell knows.
func aboutPod(told *corev1.ObjectReference) corev1.ObjectReference {
	about := corev1.ObjectReference{
		APIVersion: "v1", Kind: "Pod", Namespace: told.Namespace, Name: told.Name, UID: told.UID,
	}
	if containerPath.MatchString(told.FieldPath) {
		about.FieldPath = told.FieldPath
	}
	return about
}

// makeEvent forwards an event. Only one that the API server took is the
// cell's to change later: a name alone would give it other pods' events.
func (c *call) makeEvent(event runtime.Object, name string) error {
	if err := c.spendEvent(); err != nil {
		return err
	}
	body, err := json.Marshal(event)
	if err != nil {
		return fmt.Errorf("encoding the event: %w", err)
	}
	ctx, cancel := context.WithTimeout(c.ctx, upstreamTimeout)
	defer cancel()
	resp, err := c.send(ctx, upstreamRequest{method: http.MethodPost, path: c.req.path(), contentType: mediaTypeJSON, body: body})
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode == http.StatusCreated {
		c.rememberEvent(c.eventKey(name))
	}
	return c.passOn(resp, false)
}

// patchCoreEvent forwards that an event has happened again.
func (c *call) patchCoreEvent() error {
	patch, err := c.readEventPatch()
	if err != nil {
		return err
	}
	var told struct {
		Count         *int32       `json:"count,omitempty"`
		LastTimestamp *metav1.Time `json:"lastTimestamp,omitempty"`
		Message       *string      `json:"message,omitempty"`
	}
	if err := json.Unmarshal(patch, &told); err != nil {
		return invalid("the patch is not one of an event")
	}
	if told.Message != nil {
		*told.Message = truncate(*told.Message, maxEventMessage)
	}
	return c.forwardEventPatch(told)
}

// patchEvent is patchCoreEvent for the events.k8s.io group.
func (c *call) patchEvent() error {
	patch, err := c.readEventPatch()
	if err != nil {
		return err
	}
	var told struct {
		Series *eventsv1.EventSeries `json:"series,omitempty"`
	}
	if err := json.Unmarshal(patch, &told); err != nil {
		return invalid("the patch is not one of an event")
	}
	return c.forwardEventPatch(told)
}

// readEventPatch reads a patch of an event that this cell has made. Of others
// it is said that they are not there, and so a kubelet makes them anew after
// Kip has forgotten.
func (c *call) readEventPatch() ([]byte, error) {
	if !c.knowsEvent(c.eventKey(c.req.name)) {
		return nil, apierrors.NewNotFound(c.req.resource.GroupResource(), c.req.name)
	}
	patch, _, err := c.readPatch()
	if err != nil {
		return nil, err
	}
	return json.Marshal(patch)
}

func (c *call) forwardEventPatch(patch any) error {
	if err := c.spendEvent(); err != nil {
		return err
	}
	body, err := json.Marshal(patch)
	if err != nil {
		return fmt.Errorf("encoding the patch: %w", err)
	}
	return c.forward(upstreamRequest{method: http.MethodPatch, path: c.req.path(), contentType: string(types.MergePatchType), body: body})
}

// spendEvent takes an event from the cell's budget. Without a time to come
// again a kubelet lets the event go, which is what is wanted.
func (c *call) spendEvent() error {
	if !c.eventLimit.AllowN(c.g.clock.Now(), 1) {
		return apierrors.NewGenericServerResponse(http.StatusTooManyRequests, "create", schema.GroupResource{}, "",
			"the cell makes too many events", 0, true)
	}
	return nil
}

func (c *call) eventKey(name string) eventKey {
	return eventKey{c.req.resource.Group, reference{c.req.namespace, name}}
}

func (c *call) rememberEvent(key eventKey) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.events) >= maxEvents {
		c.events = slices.Delete(c.events, 0, 1)
	}
	c.events = append(c.events, key)
}

func (c *call) knowsEvent(key eventKey) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Contains(c.events, key)
}

// truncate makes text of a string, of at most limit bytes.
func truncate(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}
