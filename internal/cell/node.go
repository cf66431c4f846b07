// Package cell has what the controllers of Cells, each in a package below it or
// beside, have in common.
package cell

import (
	"sigs.k8s.io/controller-runtime/pkg/client"
	"sigs.k8s.io/controller-runtime/pkg/predicate"

	"github.com/elotl/kip/v2/api/v1beta1"
)

// OfNode lets pass what is about Cells of a virtual node: others are another
// Kip's.
func OfNode(name string) predicate.Predicate {
	return predicate.NewPredicateFuncs(func(o client.Object) bool {
		c, ok := o.(*v1beta1.Cell)
		return ok && c.Spec.NodeName == name
	})
}
