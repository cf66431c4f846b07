package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/types"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/elotl/kip/v2/internal/agent/containerd"
)

// podLabel is how the runtime knows whose sandbox or container something is.
const podLabel = "io.kubernetes.pod.uid"

// runtimeTimes are when a pod's only container and its sandbox came to be, by
// the container runtime.
type runtimeTimes struct{ sandbox, started time.Time }

func (m machine) runtimeTimes(ctx context.Context, pod types.UID) (t runtimeTimes, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("asking the container runtime of %s: %w", m.id, err)
		}
	}()
	conn, err := m.dialRuntime()
	if err != nil {
		return t, err
	}
	defer conn.Close()
	runtime := cri.NewRuntimeServiceClient(conn)
	mine := map[string]string{podLabel: string(pod)}
	sandboxes, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: mine}})
	if err != nil {
		return t, err
	}
	containers, err := runtime.ListContainers(ctx, &cri.ListContainersRequest{Filter: &cri.ContainerFilter{LabelSelector: mine}})
	if err != nil {
		return t, err
	}
	if len(sandboxes.Items) != 1 || len(containers.Containers) != 1 {
		return t, errors.New("the pod has not one sandbox and one container: something was started twice")
	}
	container, err := runtime.ContainerStatus(ctx, &cri.ContainerStatusRequest{ContainerId: containers.Containers[0].Id})
	if err != nil {
		return t, err
	}
	return runtimeTimes{
		sandbox: time.Unix(0, sandboxes.Items[0].CreatedAt),
		started: time.Unix(0, container.Status.StartedAt),
	}, nil
}

// forget has the container runtime forget an image, its layers included, and
// what the kubelet has left of a pod that was deleted: it would keep them.
func (m machine) forget(ctx context.Context, image string, pod types.UID) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("removing an image from %s: %w", m.id, err)
		}
	}()
	conn, err := m.dialRuntime()
	if err != nil {
		return err
	}
	defer conn.Close()
	runtime := cri.NewRuntimeServiceClient(conn)
	left, err := runtime.ListPodSandbox(ctx, &cri.ListPodSandboxRequest{Filter: &cri.PodSandboxFilter{LabelSelector: map[string]string{podLabel: string(pod)}}})
	if err != nil {
		return err
	}
	for _, sandbox := range left.Items {
		if _, err := runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: sandbox.Id}); err != nil {
			return err
		}
	}
	_, err = cri.NewImageServiceClient(conn).RemoveImage(ctx, &cri.RemoveImageRequest{Image: &cri.ImageSpec{Image: image}})
	return err
}

// dialRuntime connects to the machine's containerd.
func (m machine) dialRuntime() (*grpc.ClientConn, error) {
	// The way into another mount namespace.
	socket := fmt.Sprintf("/proc/%d/root%s", m.init, containerd.Socket)
	return grpc.NewClient("passthrough:///runtime", grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "unix", socket)
		}))
}

// kubeletSaw is when the kubelet made the pod's directory, which it does as
// soon as it has seen the pod.
func (m machine) kubeletSaw(pod types.UID) (time.Time, error) {
	return born(filepath.Join(m.root, "var/lib/kubelet/pods", string(pod)))
}

// born is when a file was made.
func born(path string) (time.Time, error) {
	var s unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_BTIME, &s); err != nil {
		return time.Time{}, fmt.Errorf("when was %s made: %w", path, err)
	}
	if s.Mask&unix.STATX_BTIME == 0 {
		return time.Time{}, fmt.Errorf("the file system of %s does not keep when files were made", path)
	}
	return time.Unix(s.Btime.Sec, int64(s.Btime.Nsec)), nil
}
