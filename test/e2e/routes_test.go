package e2e

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	corev1 "k8s.io/api/core/v1"
)

// gateway is a pod to which a network leads, one of whose addresses it has.
func gateway(name, network, address string) *corev1.Pod {
	owner := shell("address", "ip addr add "+address+"/32 dev lo; "+forever)
	owner.SecurityContext = &corev1.SecurityContext{Capabilities: &corev1.Capabilities{Add: []corev1.Capability{"NET_ADMIN"}}}
	pod := newPod(name, owner, program("server", "serve"))
	pod.Annotations = map[string]string{"pod.elotl.co/cloud-route": network}
	return pod
}

// routesTo counts the routes to a network in the account.
func (c *cloud) routesTo(ctx context.Context, network string) (n int, err error) {
	tables, err := c.api.DescribeRouteTables(ctx, &ec2.DescribeRouteTablesInput{})
	if err != nil {
		return 0, err
	}
	for _, table := range tables.RouteTables {
		for _, r := range table.Routes {
			if aws.ToString(r.DestinationCidrBlock) == network {
				n++
			}
		}
	}
	return n, nil
}

// A network that is not the VPC's leads to the pod that asked for it, through
// the cloud's route tables and the cell. The next pod that asks gets it when the
// first is gone, and nothing is left in the end.
func TestCloudRoute(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const network, address = "10.77.0.0/24", "10.77.0.1"
	s.create(gateway("first", network, address))
	s.create(newPod("client", program("client", "serve")))
	s.awaitReady("first")
	s.awaitReady("client")
	reach := func(who string) {
		t.Helper()
		s.eventually("the client reaches "+who+" at "+address, func(context.Context) error {
			out, code := s.tryKubectl("", "exec", "client", "--", "/testimage", "get", "http://"+address+":8080/hello")
			if code != 0 || out != "hello from "+who+"\n" {
				return errors.New(out)
			}
			return nil
		})
	}
	reach("first")

	s.create(gateway("second", network, address))
	s.awaitReady("second")
	t.Log(s.awaitEvent("second", "RouteConflict"))
	reach("first")

	s.delete("first")
	s.awaitGone("first")
	reach("second")

	s.delete("second")
	s.awaitGone("second")
	s.eventually("no route is left", func(ctx context.Context) error {
		n, err := shared.cloud.routesTo(ctx, network)
		if err == nil && n != 0 {
			err = fmt.Errorf("%d routes to %s", n, network)
		}
		return err
	})
}
