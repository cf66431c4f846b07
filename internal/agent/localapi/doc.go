// Package localapi is the API server that a cell's kubelet and kube-proxy know:
// https://127.0.0.1:6443, whose every answer comes from Kip's gateway over the
// tunnel.
//
// The loopback is not private: a pod that shares the cell's network can reach
// it. So both sides must show a certificate of an authority whose key lives
// only in the agent's memory and is new at every start.
package localapi
