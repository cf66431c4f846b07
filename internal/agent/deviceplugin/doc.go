// Package deviceplugin offers a cell's NVIDIA GPUs to its kubelet as
// nvidia.com/gpu, in the kubelet's device plugin API (v1beta1).
//
// What a GPU is to a container, its device nodes and the driver's files, the
// machine image says in a specification of the Container Device Interface
// (CDI), which NVIDIA's toolkit writes. The plugin only hands out its names:
// nvidia.com/gpu=0 and so on, and containerd does the rest.
//
// The API is gRPC. Its four messages are written by hand over net/http's HTTP/2
// because the agent would pay for the library with half of its own size. Tests
// hold them against the library and the kubelet's own types.
package deviceplugin
