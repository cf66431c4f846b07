// Package kubelet writes the files that a cell's stock kubelet and kube-proxy
// start with, and says how to start them. Package agent runs the processes.
//
// To the kubelet the API server is https://127.0.0.1:6443, the agent, and its
// own API is open to the agent alone: both sides hold certificates of the
// authority that the agent makes at every start and that never leaves the cell.
package kubelet
