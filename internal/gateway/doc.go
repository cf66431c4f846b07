// Package gateway shows each cell's kubelet and kube-proxy the part of the
// Kubernetes API that is theirs.
//
// A kubelet in a cell believes that it is the virtual node and that it talks
// to an API server. It talks to this package, over the tunnel. The gateway
// shows it one pod, one node that is this instance, what the pod refers to,
// and what every node knows. Everything else is refused. Whoever owns a cell
// completely, root included, can do with the cluster what policy.go lists.
//
// # How a request is answered
//
//  1. Identity. ForCell makes the handler of one cell; the tunnel has proven
//     which cell is at its other end. Nothing in a request says who asks.
//  2. Understanding (request.go). A request is parsed into verb, resource,
//     names and options. There is one spelling of each: an encoded path, a dot
//     segment, an unknown query parameter, a header that would impersonate or
//     upgrade is refused, so the API server cannot understand a request
//     differently than the gateway did.
//  3. Policy (policy.go). One table of rows, verb × resource → handler. What
//     matches no row is refused.
//  4. The handler. Its first lines check that the object is the cell's. It
//     answers from Kip's memory, or asks the API server, with a request made
//     anew from what was understood (upstream.go). There Kip impersonates
//     system:node:<virtual node>, so that the Node authorizer and
//     NodeRestriction judge it once more.
//
// A refusal is a 403 with a Status that says why in a sentence, is counted in
// kip_gateway_requests_total{decision="refused"}, and logged, at a limited
// rate. A healthy cell makes none.
//
// # What is served from where
//
// The pod comes from State, with the newest status that Kip has, and is told
// by its UID. A cell that Kip does not know (yet) is told to come again, never
// that there is no pod: that would end a pod that runs. Statuses and the end
// of a pod go to Sink; the API server hears of them from the provider.
//
// The Node, its Lease and its CSINode exist in this package only, one of each
// per cell. The kubelet finds there what it wrote, under what Kip knows
// better: labels, capacity, addresses. Which volumes of the pod are attached is
// looked up in the API server's Node whenever the kubelet gets its own. A
// renewed Lease is a heartbeat.
//
// Services, EndpointSlices, ServiceCIDRs, RuntimeClasses and CSIDrivers are
// read by Kip as itself, once, and served to all cells by package watchcache. Of
// the endpoints only those of the cell's own pod have a node (endpoints.go), so
// that its kube-proxy takes no other cell's for local.
//
// A ConfigMap that is listed or watched is followed at the API server once for
// all cells whose pods refer to it (followed.go).
//
// Secrets, claims, volumes, tokens and events, and ConfigMaps that are got, are
// asked of or sent to the API server at every request.
//
// # Watches
//
// A cell has ten watches open, most of which say nothing for hours. Its agent has
// them all on one stream (watchstream.go): each is asked for and judged like
// every request, and then kept in a few words, not in a goroutine. The watches
// of an agent that knows no streams are answers that last (watch.go).
//
// # What a kubelet and a kube-proxy ask
//
// This was read from the sources of Kubernetes 1.36.3, to leave out nothing
// that they need:
//
//	pods                 list and watch by spec.nodeName; get, patch of the status
//	                     and delete by the status manager: served.
//	                     create and delete of mirror pods: refused, cells have no
//	                     static pods.
//	nodes                list, watch, get, patch of the status: served. create:
//	                     refused, cells do not register.
//	leases               get, create, update: served.
//	csinodes             get, create, update, patch, delete: served.
//	secrets, configmaps  get, or list and watch of metadata.name=X: by the API
//	                     server if the pod, or a volume bound to a claim of it,
//	                     refers to it; ConfigMaps that are followed: served.
//	persistentvolumeclaims, persistentvolumes, volumeattachments
//	                     get: by the API server, if it is the pod's. patch of a
//	                     claim's status (after a volume was expanded): the same.
//	                     patch of a volume, create and delete of an attachment:
//	                     refused; the controllers of the cluster do that.
//	serviceaccounts/token
//	                     create: by the API server, for the pod's account, bound
//	                     to the pod, for an audience that one of its projected
//	                     volumes or CSI drivers asks for, and no longer than that.
//	serviceaccounts      get, only for credential providers that ask for tokens:
//	                     refused, cells have none.
//	events               create and patch in both groups: by the API server,
//	                     about the pod. About the node: dropped, since kubelet
//	                     and kube-proxy make some at every start.
//	services, endpointslices, servicecidrs, runtimeclasses, csidrivers
//	                     list and watch: served.
//	resourceslices       deletecollection of the node's own, at every start and
//	                     again until it works: dropped. Passed on it would delete
//	                     those of the virtual node.
//	resourceclaims       get, only of pods with claims: refused; the virtual node
//	                     offers no devices by DRA.
//	tokenreviews, subjectaccessreviews, certificatesigningrequests
//	                     create, only with webhook authentication or rotation of
//	                     certificates: refused, cells use neither.
//	clustertrustbundles, podcertificaterequests
//	                     only with feature gates that are off: refused.
package gateway
