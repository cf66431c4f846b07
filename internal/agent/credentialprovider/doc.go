// Package credentialprovider is how a cell's kubelet gets the credentials of an
// image registry. The kubelet runs the agent's own binary as its image
// credential provider (Run), which passes the question to the agent over a
// socket (Serve), and the agent to Kip over the tunnel. Question and answer are
// the kubelet's own, credentialprovider.kubelet.k8s.io/v1; nothing in the cell
// looks into them.
//
// Whoever is root on the cell reaches the socket (package kipsocket), and gets
// what Kip gives this cell: credentials for the registries that its own pod's
// images name.
package credentialprovider
