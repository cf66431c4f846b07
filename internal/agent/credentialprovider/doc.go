// Package credentialprovider is how a cell's kubelet gets the credentials of an
// image registry. The kubelet runs the agent's own binary as its image
// credential provider (Run), which passes the question to the agent over a
// socket (Serve), and the agent to Kip over the tunnel. Question and answer are
// the kubelet's own, credentialprovider.kubelet.k8s.io/v1; nothing in the cell
// looks into them.
//
// The socket is a file that only root of the machine can open. A pod that
// shares the cell's network does not reach it, as it would a port of the
// loopback; whoever is root on the cell does, and gets what Kip gives this cell:
// credentials for the registries that its own pod's images name.
package credentialprovider
