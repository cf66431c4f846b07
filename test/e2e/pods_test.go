package e2e

import (
	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// forever is a script that lives until it is told to end, and then does so at
// once.
const forever = `trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done`

// newPod is a pod that runs on Kip and never restarts as a whole.
func newPod(name string, containers ...corev1.Container) *corev1.Pod {
	grace := int64(2)
	return &corev1.Pod{
		ObjectMeta: metav1.ObjectMeta{Name: name, Labels: map[string]string{"app": name}},
		Spec: corev1.PodSpec{
			NodeSelector:                  map[string]string{"type": "virtual-kubelet"},
			Tolerations:                   []corev1.Toleration{{Key: "virtual-kubelet.io/provider", Operator: corev1.TolerationOpExists}},
			TerminationGracePeriodSeconds: &grace,
			Containers:                    containers,
		},
	}
}

// shell is a container that runs a script of busybox' shell.
func shell(name, script string) corev1.Container {
	c := small(name, busyboxImage)
	c.Command = []string{"sh", "-c", script}
	return c
}

// program is a container that runs the test program.
func program(name string, args ...string) corev1.Container {
	c := small(name, testImage)
	c.Args = args
	return c
}

func small(name, image string) corev1.Container {
	return corev1.Container{
		Name: name, Image: image, ImagePullPolicy: corev1.PullIfNotPresent,
		Resources: requests("50m", "32Mi"),
	}
}

func requests(cpu, memory string) corev1.ResourceRequirements {
	return corev1.ResourceRequirements{Requests: corev1.ResourceList{
		corev1.ResourceCPU: resource.MustParse(cpu), corev1.ResourceMemory: resource.MustParse(memory),
	}}
}

func port(n int32) intstr.IntOrString { return intstr.FromInt32(n) }

func quantity(s string) *resource.Quantity {
	q := resource.MustParse(s)
	return &q
}
