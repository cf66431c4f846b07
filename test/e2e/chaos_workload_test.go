package e2e

import (
	"context"
	"fmt"
	"time"

	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// replicated selects the pods that their controller replaces.
	replicated = "app in (web,db)"

	webReplicas = 3
	dbReplicas  = 2
	// completions and parallelism are those of each Job.
	completions, parallelism = 4, 2
	// unlimited: a Job's pods may be lost as often as its cells are.
	unlimited = 10000
)

// The kinds of bare pods and of tasks, by the labels and names of their pods.
const (
	kept      = "kept"      // restartPolicy Always, and never ends
	never     = "never"     // restartPolicy Never, and ends
	onFailure = "onfailure" // restartPolicy OnFailure, and ends
	jobs      = "job"
)

// reporter is a pod whose program reports its runs, and works for a while, or
// for ever if that is 0.
func (c *chaos) reporter(name string, policy corev1.RestartPolicy, work time.Duration) *corev1.Pod {
	main := small("main", testImage)
	main.Args = []string{"work", "-for", work.String(), c.reports}
	field := func(env, path string) corev1.EnvVar {
		return corev1.EnvVar{Name: env, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}}
	}
	main.Env = []corev1.EnvVar{field("POD_NAME", "metadata.name"), field("POD_UID", "metadata.uid"), field("HOST_IP", "status.hostIP")}
	pod := newPod(name, main)
	pod.Spec.RestartPolicy = policy
	pod.Spec.TerminationGracePeriodSeconds = new(int64(5))
	return pod
}

func template(pod *corev1.Pod) corev1.PodTemplateSpec {
	return corev1.PodTemplateSpec{ObjectMeta: metav1.ObjectMeta{Labels: pod.Labels, Annotations: pod.Annotations}, Spec: pod.Spec}
}

// createWorkload makes what runs from the beginning.
func (c *chaos) createWorkload() {
	web := c.reporter("web", corev1.RestartPolicyAlways, 0)
	web.Annotations = map[string]string{"pod.elotl.co/launch-type": "spot"}
	if _, err := shared.kube.AppsV1().Deployments(c.name).Create(c.Context(), &appsv1.Deployment{
		ObjectMeta: metav1.ObjectMeta{Name: "web"},
		Spec: appsv1.DeploymentSpec{
			Replicas: new(int32(webReplicas)), Selector: &metav1.LabelSelector{MatchLabels: web.Labels}, Template: template(web),
		},
	}, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	db := c.reporter("db", corev1.RestartPolicyAlways, 0)
	if _, err := shared.kube.AppsV1().StatefulSets(c.name).Create(c.Context(), &appsv1.StatefulSet{
		ObjectMeta: metav1.ObjectMeta{Name: "db"},
		Spec: appsv1.StatefulSetSpec{
			Replicas: new(int32(dbReplicas)), Selector: &metav1.LabelSelector{MatchLabels: db.Labels}, Template: template(db),
			PodManagementPolicy: appsv1.ParallelPodManagement,
		},
	}, metav1.CreateOptions{}); err != nil {
		c.Fatal(err)
	}
	c.create(c.reporter(kept, corev1.RestartPolicyAlways, 0))
}

// workTime is how long the tasks of a number work: all the same, and some of them
// longer than others.
func workTime(number int) time.Duration { return time.Duration(2+number*7%17) * time.Second }

// createTasks makes a Job and a pod of each policy if the one before has ended,
// as far as the API server is there to be asked.
func (c *chaos) createTasks(ctx context.Context) {
	for _, kind := range []string{jobs, never, onFailure} {
		number := c.tasks[kind]
		if number > 0 && !c.hasEnded(taskName(kind, number)) {
			continue
		}
		// Without an answer it is made under the same name the next time, and so not
		// twice.
		if err := c.createTask(ctx, kind, number+1); err == nil || apierrors.IsAlreadyExists(err) {
			c.tasks[kind] = number + 1
		}
	}
}

func taskName(kind string, number int) string { return fmt.Sprintf("%s-%d", kind, number) }

func (c *chaos) createTask(ctx context.Context, kind string, number int) (err error) {
	name := taskName(kind, number)
	policy := corev1.RestartPolicyNever
	if kind == onFailure || kind == jobs && number%2 == 0 {
		policy = corev1.RestartPolicyOnFailure
	}
	pod := c.reporter(name, policy, workTime(number))
	pod.Labels = map[string]string{"app": kind}
	if kind != jobs {
		_, err = shared.kube.CoreV1().Pods(c.name).Create(ctx, pod, metav1.CreateOptions{})
		return err
	}
	_, err = shared.kube.BatchV1().Jobs(c.name).Create(ctx, &batchv1.Job{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Spec: batchv1.JobSpec{
			CompletionMode: new(batchv1.IndexedCompletion), Completions: new(int32(completions)), Parallelism: new(int32(parallelism)),
			BackoffLimit: new(int32(unlimited)), Template: template(pod),
		},
	}, metav1.CreateOptions{})
	return err
}
