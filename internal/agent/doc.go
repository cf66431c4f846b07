// Package agent makes an instance a cell: it learns from the metadata service
// what cell it is, sets up the network, starts containerd and the kubelet, gets
// itself enrolled, and then stands between them and Kip.
//
//	Kip ──dials──► tunnel ─┬─► agent API: status, power off, /kubelet/…
//	                       └─◄─ gateway ◄── https://127.0.0.1:6443 ◄── kubelet
//
// Everything that can wait for nothing waits for nothing: user data holds all
// that containerd and the kubelet need, so they start while Kip finds the cell
// and enrols it. Nothing here knows pods; that is the kubelet's.
//
// The packages below do one thing each and know nothing of each other: imds
// (who am I), machine (PID 1's duties), network, networkpolicy (what the pod may
// connect to), containerd and kubelet (files and command lines), process
// (children), localapi (the kubelet's API server), status (what the agent says
// about itself).
package agent
