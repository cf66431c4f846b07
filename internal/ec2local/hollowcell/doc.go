// Package hollowcell makes machines that are cells without containers. To Kip, and to the API server, they are cells:
// they read their user data from the metadata service, listen, enrol, connect Kip's gateway, and their kubelet and
// kube-proxy ask of it what the real ones ask, at the same pace. But nothing runs in them. Of a pod they say that it
// runs as soon as they see it, and that it has ended as soon as it is deleted.
//
// A cell is some goroutines and sockets of ec2local's own process, so that a machine can hold thousands of them: they
// are for measuring Kip (make bench-scale), not for pods. They end with ec2local, as instances whose machine broke.
//
// What the requests are was read from the sources of Kubernetes 1.36.3, as was the gateway's policy. A cell
//
//   - has ten watches: five of its kubelet's, four of its kube-proxy's and one for each ConfigMap and Secret that the pod
//     refers to. Each begins with the state, is asked for anew every five to ten minutes, and from its beginning after an
//     error;
//   - renews its Lease every 10 s and tells its Node every 5 min;
//   - reports what its pod uses every 15 s;
//   - for its pod asks for a token, reports four events and three statuses, each after a look at the pod, and at its end
//     an event, the last status, and that nothing is left of it.
//
// # Addresses
//
// All addresses of the VPC are this network namespace's own, by one route (AddRoute): no device is needed, and whoever
// is in the namespace reaches the cells.
//
// # Load
//
// While a pod has the annotation ec2local.kip.elotl.co/load its kubelet repeats one request as fast as it is answered:
// "leases" renews its Lease, which Kip answers itself; "configmaps" reads kube-root-ca.crt, which Kip asks of the API
// server.
package hollowcell
