package e2e

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/utils/ptr"
)

// check runs scripts in containers of a pod, by what they show, and compares
// what they print.
func (s *space) check(pod string, cases map[string]outcome) {
	s.Helper()
	for what, c := range cases {
		out, _ := s.tryKubectl("", "exec", pod, "-c", c.container, "--", "sh", "-c", c.script)
		out, _, _ = strings.Cut(out, "command terminated with")
		if got := strings.TrimSpace(out); got != c.want {
			s.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
}

// outcome is what a script in a container prints.
type outcome struct{ container, script, want string }

// Who the containers of a pod are and what they may.
func TestSecurityContext(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: contexts}
spec:
  nodeSelector: {type: virtual-kubelet}
  tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
  terminationGracePeriodSeconds: 2
  shareProcessNamespace: true
  securityContext:
    runAsUser: 1000
    runAsGroup: 1001
    supplementalGroups: [1002]
    fsGroup: 1003
    seccompProfile: {type: RuntimeDefault}
    sysctls: [{name: kernel.shm_rmid_forced, value: "1"}, {name: net.ipv4.ip_local_port_range, value: "20000 30000"}]
  initContainers:
  - name: profiles
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo ''{"defaultAction": "SCMP_ACT_ALLOW", "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO"}]}'' >/profiles/no-mkdir.json']
    securityContext: {runAsUser: 0}
    volumeMounts: [{name: profiles, mountPath: /profiles}]
  containers:
  - name: profiled
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']
    securityContext: {runAsUser: 0, seccompProfile: {type: Localhost, localhostProfile: no-mkdir.json}}
    resources: {requests: {cpu: 50m, memory: 32Mi}}
  - name: user
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']
    securityContext: {readOnlyRootFilesystem: true, allowPrivilegeEscalation: false, capabilities: {drop: [ALL]}, runAsNonRoot: true}
    resources: {requests: {cpu: 50m, memory: 32Mi}}
  - name: root
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']
    securityContext: {runAsUser: 0, capabilities: {drop: [ALL], add: [NET_ADMIN]}, seccompProfile: {type: Unconfined}}
    resources: {requests: {cpu: 50m, memory: 32Mi}}
  - name: privileged
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']
    securityContext: {runAsUser: 0, privileged: true}
    resources: {requests: {cpu: 50m, memory: 32Mi}}
  volumes:
  # Where a kubelet looks for profiles of its node.
  - {name: profiles, hostPath: {path: /var/lib/kubelet/seccomp, type: DirectoryOrCreate}}
`)
	unsafe := newPod("unsafe-sysctl", shell("main", forever))
	unsafe.Spec.SecurityContext = &corev1.PodSecurityContext{Sysctls: []corev1.Sysctl{{Name: "kernel.msgmax", Value: "65536"}}}
	s.create(unsafe)
	mapped := newPod("mapped", shell("main", forever))
	mapped.Spec.HostUsers = ptr.To(false)
	s.create(mapped)
	nonRoot := newPod("non-root", shell("main", forever))
	nonRoot.Spec.SecurityContext = &corev1.PodSecurityContext{RunAsNonRoot: ptr.To(true)}
	s.create(nonRoot)

	confined := newPod("confined", shell("main", forever))
	confined.Spec.SecurityContext = &corev1.PodSecurityContext{AppArmorProfile: &corev1.AppArmorProfile{Type: corev1.AppArmorProfileTypeRuntimeDefault}}
	s.create(confined)

	s.awaitReady("contexts")
	caps := func(set string) string { return "grep Cap" + set + " /proc/self/status | cut -f2" }
	s.check("contexts", map[string]outcome{
		"user and groups":          {"user", "id -u; id -g; id -G | tr ' ' '\n' | sort -n | tr '\n' ' '", "1000\n1001\n1001 1002 1003"},
		"readOnlyRootFilesystem":   {"user", "touch /x 2>&1", "touch: /x: Read-only file system"},
		"no capabilities":          {"user", caps("Eff"), "0000000000000000"},
		"no way to get more":       {"user", "grep NoNewPrivs /proc/self/status | cut -f2", "1"},
		"seccomp RuntimeDefault":   {"user", "grep Seccomp: /proc/self/status | cut -f2", "2"},
		"seccomp Localhost":        {"profiled", "touch /tmp/x && mkdir /tmp/y 2>&1; grep Seccomp: /proc/self/status | cut -f2", "mkdir: can't create directory '/tmp/y': Operation not permitted\n2"},
		"seccomp Unconfined":       {"root", "grep Seccomp: /proc/self/status | cut -f2", "0"},
		"one capability":           {"root", caps("Eff") + "; ip link add dummy1 type veth && ip link del dummy1 && echo done", "0000000000001000\ndone"},
		"privileged":               {"privileged", "mkdir /m && mount -t tmpfs m /m && umount /m && echo mounted; grep Seccomp: /proc/self/status | cut -f2", "mounted\n0"},
		"safe sysctls":             {"user", "cat /proc/sys/kernel/shm_rmid_forced /proc/sys/net/ipv4/ip_local_port_range", "1\n20000\t30000"},
		"shareProcessNamespace":    {"root", "ps -o comm,args | grep -c '[p]ause'", "1"},
		"processes of one another": {"privileged", "ps -o args | grep -c '[t]rap'", "4"},
	})
	s.awaitPod("unsafe-sysctl", "it is refused", func(p *corev1.Pod) error {
		if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "SysctlForbidden" {
			return fmt.Errorf("it is %s, reason %s: %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
		}
		return nil
	})
	if enabled, err := os.ReadFile("/sys/module/apparmor/parameters/enabled"); err == nil && strings.HasPrefix(string(enabled), "Y") {
		s.awaitReady("confined")
		s.check("confined", map[string]outcome{"AppArmor": {"main", "cat /proc/self/attr/current", "cri-containerd.apparmor.d (enforce)"}})
	} else {
		s.awaitPod("confined", "it is refused: this kernel has no AppArmor", func(p *corev1.Pod) error {
			if p.Status.Phase != corev1.PodFailed || p.Status.Reason != "AppArmor" {
				return fmt.Errorf("it is %s, reason %s: %s", p.Status.Phase, p.Status.Reason, p.Status.Message)
			}
			return nil
		})
	}
	s.awaitPod("non-root", "its container is refused", func(p *corev1.Pod) error {
		for _, c := range p.Status.ContainerStatuses {
			if w := c.State.Waiting; w != nil && w.Reason == "CreateContainerConfigError" && strings.Contains(w.Message, "runAsNonRoot") {
				return nil
			}
		}
		return errors.New(conditions(p))
	})
	s.awaitReady("mapped")
	if got := strings.Fields(s.kubectl("exec", "mapped", "--", "cat", "/proc/self/uid_map")); len(got) != 3 || got[0] != "0" || got[1] == "0" || got[2] != "65536" {
		t.Errorf("hostUsers: false: the map of users is %q", got)
	}
}

// The host of a pod is its cell: its network, processes, memory and ports.
func TestHostNamespaces(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	everything := shell("main", forever)
	everything.SecurityContext = &corev1.SecurityContext{Privileged: ptr.To(true)}
	host := newPod("host", everything)
	host.Spec.HostNetwork, host.Spec.HostPID, host.Spec.HostIPC = true, true, true
	s.create(host)
	ported := newPod("ported", program("server", "serve", "-state", "/"))
	ported.Spec.Containers[0].Ports = []corev1.ContainerPort{{ContainerPort: 8080, HostPort: 80}, {ContainerPort: 8080, HostPort: 80, Protocol: corev1.ProtocolUDP}}
	s.create(ported)
	s.create(onOrdinaryNode(serving("client", "client")))
	cell := s.cellOf(s.awaitReady("host"))
	m := machineOf(t, cell)
	s.check("host", map[string]outcome{
		"the cell's processes, and no other's": {"main", "basename $(readlink /proc/1/exe); ps -o comm | grep -c '^kubelet$'; ps -o comm | grep -c '^containerd$'", "kip-cell\n1\n1"},
		"the cell's memory":                    {"main", "[ $(readlink /proc/self/ns/ipc) = $(readlink /proc/1/ns/ipc) ] && echo shared", "shared"},
		"the cell's address":                   {"main", "ip -4 -o addr show scope global | grep -c " + cell.Status.PrimaryIP, "1"},
		"the cell's files":                     {"main", "head -c 20 /proc/1/root/etc/kip/kubernetes/kubelet.json | grep -c apiVersion", "1"},
	})
	if pids := m.processes(t, "kubelet"); len(pids) != 1 {
		t.Errorf("the machine has kubelets %v", pids)
	}

	s.awaitReady("client")
	address := s.awaitReady("ported").Status.HostIP
	s.answers("client", "http://"+address+"/hello", 1, "hello from ported")
	s.outputsOf("client", "hello from ported", "/testimage", "ask", address+":80")
	s.eventually("this machine asks the host port", func(ctx context.Context) error {
		got, err := fetch(ctx, address, 80, "/hello")
		if err == nil && got != "hello from ported" {
			err = fmt.Errorf("it answers %q", got)
		}
		return err
	})
}

// outputsOf waits until a command in a pod prints something with want in it.
func (s *space) outputsOf(pod, want string, command ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("%s: %v prints %q", pod, command, want), func(context.Context) error {
		out, code := s.tryKubectl("", append([]string{"exec", pod, "--"}, command...)...)
		if code != 0 || !strings.Contains(out, want) {
			return fmt.Errorf("code %d: %s", code, out)
		}
		return nil
	})
}

// DaemonSets pass the virtual node by, unless they tolerate its taint: then they
// have one pod there, on a cell of its own.
func TestDaemonSet(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const manifest = `
apiVersion: apps/v1
kind: DaemonSet
metadata: {name: NAME}
spec:
  selector: {matchLabels: {app: NAME}}
  template:
    metadata: {labels: {app: NAME}}
    spec:
      tolerations: [TOLERATION]
      terminationGracePeriodSeconds: 2
      containers:
      - {name: main, image: busybox, imagePullPolicy: IfNotPresent, command: [sh, -c, 'trap "exit 0" TERM; while :; do sleep 1 & wait $!; done']}
`
	s.apply(strings.NewReplacer("NAME", "ordinary", "TOLERATION", "").Replace(manifest))
	s.apply(strings.NewReplacer("NAME", "everywhere", "TOLERATION", "{operator: Exists}").Replace(manifest))
	nodes := func(app string) string {
		var on []string
		for _, p := range s.podsOf(app) {
			on = append(on, p.Spec.NodeName)
		}
		if len(on) == 2 && on[0] > on[1] {
			on[0], on[1] = on[1], on[0]
		}
		return strings.Join(on, " ")
	}
	for app, want := range map[string]string{"ordinary": "node-0", "everywhere": "kip-provider-0 node-0"} {
		s.kubectl("rollout", "status", "daemonset/"+app, "--timeout=90s")
		if got := nodes(app); got != want {
			t.Errorf("the DaemonSet %s has pods on %q, want %q", app, got, want)
		}
	}
	for _, p := range s.podsOf("everywhere") {
		if p.Spec.NodeName == "kip-provider-0" {
			s.cellOf(&p)
		}
	}
}

// Containers restart by the pod's policy, by their own and by rules, and native
// sidecars neither keep a pod from ending nor outlive it.
func TestRestartPolicies(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: v1
kind: Pod
metadata: {name: rules}
spec:
  nodeSelector: {type: virtual-kubelet}
  tolerations: [{key: virtual-kubelet.io/provider, operator: Exists}]
  terminationGracePeriodSeconds: 2
  restartPolicy: Never
  initContainers:
  - name: sidecar
    image: busybox
    imagePullPolicy: IfNotPresent
    restartPolicy: Always
    command: [sh, -c, 'echo start >>/state/sidecar; trap "echo end >>/state/sidecar; exit 0" TERM; while :; do sleep 1 & wait $!; done']
    startupProbe: {exec: {command: [grep, -q, start, /state/sidecar]}, periodSeconds: 1}
    volumeMounts: [{name: state, mountPath: /state}]
  containers:
  # Fails with 42, which restarts it; then with 88, which restarts all; then it is content.
  - name: main
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo x >>/state/main; case $(wc -l </state/main) in 1) exit 42;; 2) exit 88;; esac; echo "sidecar $(grep -c start /state/sidecar)"; exit 0']
    restartPolicy: Never
    restartPolicyRules:
    - {action: Restart, exitCodes: {operator: In, values: [42]}}
    - {action: RestartAllContainers, exitCodes: {operator: In, values: [88]}}
    volumeMounts: [{name: state, mountPath: /state}]
    resources: {requests: {cpu: 50m, memory: 32Mi}}
  # Fails twice, and its own policy is to try again.
  - name: stubborn
    image: busybox
    imagePullPolicy: IfNotPresent
    command: [sh, -c, 'echo x >>/state/stubborn; [ $(wc -l </state/stubborn) -gt 2 ]']
    restartPolicy: OnFailure
    volumeMounts: [{name: state, mountPath: /state}]
    resources: {requests: {cpu: 50m, memory: 32Mi}}
  volumes: [{name: state, emptyDir: {}}]
`)
	pod := s.awaitPod("rules", "it has ended", hasEnded)
	if pod.Status.Phase != corev1.PodSucceeded {
		t.Errorf("it is %s: %s", pod.Status.Phase, conditions(pod))
	}
	for _, c := range pod.Status.ContainerStatuses {
		if ended := c.State.Terminated; ended == nil || ended.ExitCode != 0 || c.RestartCount < 2 {
			t.Errorf("%s ended as %+v after %d restarts", c.Name, c.State, c.RestartCount)
		}
	}
	for _, c := range pod.Status.InitContainerStatuses {
		if ended := c.State.Terminated; ended == nil || ended.ExitCode != 0 {
			t.Errorf("the sidecar ended as %+v", c.State)
		}
	}
	if got := s.kubectl("logs", "rules", "-c", "main"); got != "sidecar 2\n" {
		t.Errorf("with its last breath main said %q", got)
	}
}

// kubectl debug puts a container into a running pod, if need be among the
// processes of another.
func TestDebug(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.start(newPod("patient", program("server", "serve", "-state", "/"), shell("other", forever)))
	if out, code := s.tryKubectl("a word\n", "debug", "-i", "patient", "--image=busybox", "--image-pull-policy=IfNotPresent", "-c", "doctor", "--target=server", "--",
		"sh", "-c", `read line; echo "heard $line"; cat /proc/1/comm; wget -qO- http://localhost:8080/hello`); code != 0 {
		t.Errorf("kubectl debug --target ended with %d: %s", code, out)
	}
	pod := s.awaitPod("patient", "the ephemeral container has ended", func(p *corev1.Pod) error {
		for _, c := range p.Status.EphemeralContainerStatuses {
			if c.Name == "doctor" && c.State.Terminated != nil && c.State.Terminated.ExitCode == 0 {
				return nil
			}
		}
		return fmt.Errorf("%+v", p.Status.EphemeralContainerStatuses)
	})
	if err := isReady(pod); err != nil {
		t.Errorf("the pod: %v", err)
	}
	for _, c := range pod.Status.ContainerStatuses {
		if c.RestartCount > 0 {
			t.Errorf("%s restarted", c.Name)
		}
	}
	// What a container prints just before it ends may be too late for an
	// attached kubectl, on any node; its log has it.
	if got := s.kubectl("logs", "patient", "-c", "doctor"); got != "heard a word\ntestimage\nhello from patient\n" {
		t.Errorf("it said %q", got)
	}
}

// What a pod says of itself: conditions of others, messages of its end, a
// deadline, values of its cell.
func TestPodStatus(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	s.apply(`
apiVersion: node.k8s.io/v1
kind: RuntimeClass
metadata: {name: ` + s.name + `}
handler: runc
overhead: {podFixed: {cpu: 50m, memory: 16Mi}}
`)
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), patience)
		defer cancel()
		if out, err := kubectlCommand(ctx, "delete", "runtimeclass", s.name).CombinedOutput(); err != nil {
			t.Errorf("removing the RuntimeClass: %v\n%s", err, out)
		}
	})
	main := shell("main", forever)
	for name, path := range map[string]string{"NAME": "metadata.name", "UID": "metadata.uid", "NODE": "spec.nodeName", "HOST": "status.hostIP", "HOSTS": "status.hostIPs", "IPS": "status.podIPs", "LABEL": "metadata.labels['app']"} {
		main.Env = append(main.Env, corev1.EnvVar{Name: name, ValueFrom: &corev1.EnvVarSource{FieldRef: &corev1.ObjectFieldSelector{FieldPath: path}}})
	}
	main.Env = append(main.Env, corev1.EnvVar{Name: "CPUS", ValueFrom: &corev1.EnvVarSource{ResourceFieldRef: &corev1.ResourceFieldSelector{Resource: "limits.cpu"}}})
	main.Lifecycle = &corev1.Lifecycle{
		PostStart: &corev1.LifecycleHandler{Exec: &corev1.ExecAction{Command: []string{"touch", "/tmp/started"}}},
		PreStop:   &corev1.LifecycleHandler{Sleep: &corev1.SleepAction{Seconds: 1}},
	}
	// What runs before it and ends after it hears from its hooks.
	server := program("server", "serve")
	server.RestartPolicy = ptr.To(corev1.ContainerRestartPolicyAlways)
	server.StartupProbe = &corev1.Probe{ProbeHandler: corev1.ProbeHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/hello", Port: port(8080)}}, PeriodSeconds: 1, FailureThreshold: 60}
	hook := func(name string) *corev1.LifecycleHandler {
		return &corev1.LifecycleHandler{HTTPGet: &corev1.HTTPGetAction{Path: "/hook/" + name, Port: port(8080)}}
	}
	caller := shell("caller", forever)
	caller.Lifecycle = &corev1.Lifecycle{PostStart: hook("started"), PreStop: hook("stops")}
	gated := newPod("gated", main, caller)
	gated.Spec.InitContainers = []corev1.Container{server}
	gated.Spec.ReadinessGates = []corev1.PodReadinessGate{{ConditionType: "example.com/approved"}}
	gated.Spec.RuntimeClassName = &s.name
	s.create(gated)

	talker := shell("talker", `echo -n "all is lost" >/dev/termination-log; exit 3`)
	logger := shell("logger", "echo the last words; exit 4")
	logger.TerminationMessagePolicy = corev1.TerminationMessageFallbackToLogsOnError
	failing := newPod("failing", talker, logger)
	failing.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.create(failing)

	late := newPod("late", shell("main", forever))
	late.Spec.ActiveDeadlineSeconds = ptr.To(int64(3))
	late.Spec.RestartPolicy = corev1.RestartPolicyNever
	s.create(late)

	absent := newPod("absent", shell("main", forever))
	absent.Spec.Containers[0].Image, absent.Spec.Containers[0].ImagePullPolicy = "docker.io/library/nothing:1", corev1.PullNever
	s.create(absent)

	pod := s.awaitPod("gated", "its containers are ready", func(p *corev1.Pod) error {
		for _, c := range p.Status.Conditions {
			if c.Type == corev1.ContainersReady && c.Status == corev1.ConditionTrue {
				return nil
			}
		}
		return errors.New(conditions(p))
	})
	if isReady(pod) == nil {
		t.Error("it is ready, though a gate is shut")
	}
	s.kubectl("patch", "pod", "gated", "--subresource=status", "-p", `{"status":{"conditions":[{"type":"example.com/approved","status":"True"}]}}`)
	s.awaitReady("gated")
	s.kubectl("patch", "pod", "gated", "--subresource=status", "-p", `{"status":{"conditions":[{"type":"example.com/approved","status":"False"}]}}`)
	s.awaitPod("gated", "it is unready again", func(p *corev1.Pod) error {
		if isReady(p) == nil {
			return errors.New("it is ready")
		}
		return nil
	})
	s.check("gated", map[string]outcome{
		"downward API": {"main", "echo $NAME $UID $NODE $HOST $HOSTS $IPS $LABEL",
			strings.Join([]string{"gated", string(pod.UID), "kip-provider-0", pod.Status.HostIP, pod.Status.HostIP, pod.Status.PodIP, "gated"}, " ")},
		"the cell's processors": {"main", "echo $CPUS", "2"},
		"postStart":             {"main", "ls /tmp/started", "/tmp/started"},
	})
	hooks := s.followLogs("gated", "server")
	if took := s.delete("gated"); took < time.Second {
		t.Errorf("preStop did not hold the pod up: it was gone after %s", took)
	}
	if got := hooks(); got != "started\nstops\n" {
		t.Errorf("the hooks that ask by HTTP asked for %q", got)
	}

	ended := s.awaitPod("failing", "it has ended", hasEnded)
	words := map[string]string{"talker": "all is lost", "logger": "the last words\n"}
	for _, c := range ended.Status.ContainerStatuses {
		if c.State.Terminated == nil || c.State.Terminated.Message != words[c.Name] {
			t.Errorf("%s ended as %+v", c.Name, c.State.Terminated)
		}
	}
	ended = s.awaitPod("late", "its time is over", hasEnded)
	if ended.Status.Phase != corev1.PodFailed || ended.Status.Reason != "DeadlineExceeded" {
		t.Errorf("late is %s, reason %s", ended.Status.Phase, ended.Status.Reason)
	}
	s.awaitPod("absent", "its image is not pulled", func(p *corev1.Pod) error {
		if c := p.Status.ContainerStatuses; len(c) == 1 && c[0].State.Waiting != nil && c[0].State.Waiting.Reason == "ErrImageNeverPull" {
			return nil
		}
		return errors.New(conditions(p))
	})
}
