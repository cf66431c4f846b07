// Package v1beta1 holds the Cell: what Kip wants of, and knows about, one cloud
// instance that runs one pod.
//
// A Cell is written before the cloud is called and removed only after its
// instance is gone, so the set of Cells is the set of machines that may cost
// money. Users read Cells (kubectl get cells); only Kip writes them.
//
// +kubebuilder:object:generate=true
// +groupName=kip.elotl.co
package v1beta1
