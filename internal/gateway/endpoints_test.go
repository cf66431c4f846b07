package gateway_test

import (
	"context"
	"encoding/json"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/client-go/kubernetes/fake"

	"github.com/elotl/kip/v2/internal/gateway"
)

// endpointsOn is an EndpointSlice with an endpoint on a node for each UID.
func endpointsOn(name string, nodes map[types.UID]string, uids ...types.UID) *discoveryv1.EndpointSlice {
	slice := &discoveryv1.EndpointSlice{ObjectMeta: metav1.ObjectMeta{Namespace: ns, Name: name}}
	for _, uid := range uids {
		on := nodes[uid]
		slice.Endpoints = append(slice.Endpoints, discoveryv1.Endpoint{
			Addresses: []string{"10.98.0.1"}, NodeName: &on, TargetRef: &corev1.ObjectReference{Kind: "Pod", UID: uid},
		})
	}
	return slice
}

// TestLocalEndpoints: of all pods with the virtual node's name only the cell's
// own is local to its kube-proxy, in lists and in what a watch tells later.
func TestLocalEndpoints(t *testing.T) {
	own := webPod().UID
	nodes := map[types.UID]string{own: node, "another-cells": node, "on-an-ordinary-node": "node-7"}
	h := newHarness(t, func(c *gateway.Config) {
		c.Client = fake.NewClientset(
			endpointsOn("mixed", nodes, "another-cells", own, "on-an-ordinary-node"),
			endpointsOn("others", nodes, "another-cells", "on-an-ordinary-node"),
		)
	})
	local := func(slice *discoveryv1.EndpointSlice) (uids []types.UID) {
		for _, e := range slice.Endpoints {
			if e.NodeName != nil {
				if *e.NodeName != node {
					t.Errorf("the endpoint %s is on %s", e.TargetRef.UID, *e.NodeName)
				}
				uids = append(uids, e.TargetRef.UID)
			}
		}
		return uids
	}
	list := func() map[string][]types.UID {
		t.Helper()
		code, body := h.do(t, "GET", "/apis/discovery.k8s.io/v1/endpointslices", "")
		var list discoveryv1.EndpointSliceList
		if err := json.Unmarshal([]byte(body), &list); code != 200 || err != nil {
			t.Fatal(code, err, body)
		}
		got := map[string][]types.UID{}
		for i := range list.Items {
			if list.Items[i].ResourceVersion == "" {
				t.Error("a slice without a version")
			}
			got[list.Items[i].Name] = local(&list.Items[i])
		}
		return got
	}
	if diff := cmp.Diff(map[string][]types.UID{"mixed": nil, "others": nil}, list()); diff != "" {
		t.Errorf("before the cell has a pod, -want +got:\n%s", diff)
	}

	// A kube-proxy watches before the cell has a pod.
	watch, err := h.client(t, true).DiscoveryV1().EndpointSlices("").Watch(t.Context(), metav1.ListOptions{})
	if err != nil {
		t.Fatal(err)
	}
	defer watch.Stop()
	h.State.Bind(cell, webPod())
	if diff := cmp.Diff(map[string][]types.UID{"mixed": {own}, "others": nil}, list()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
	if _, err := h.Config.Client.DiscoveryV1().EndpointSlices(ns).Create(context.Background(), endpointsOn("later", nodes, own, "another-cells"), metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	for event := range watch.ResultChan() {
		if slice := event.Object.(*discoveryv1.EndpointSlice); slice.Name == "later" {
			if diff := cmp.Diff([]types.UID{own}, local(slice)); diff != "" {
				t.Errorf("by the watch, -want +got:\n%s", diff)
			}
			return
		}
	}
	t.Error("the watch ended before it told of the last slice")
}
