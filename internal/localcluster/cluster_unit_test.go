package localcluster

import (
	"bytes"
	"context"
	"encoding/json"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
)

func TestSettingsAreKept(t *testing.T) {
	dir := t.TempDir()
	first, err := loadSettings(dir, "kip")
	if err != nil {
		t.Fatal(err)
	}
	again, err := loadSettings(dir, "kip")
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(first, again, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("a second up finds another cluster: %s", diff)
	}
	ports := []int{first.EtcdPort, first.EtcdPeerPort, first.KCMPort, first.SchedPort, first.EC2Port, first.MetricsPort}
	slices.Sort(ports)
	if len(slices.Compact(ports)) != 6 || ports[0] == 0 {
		t.Errorf("ports %v", ports)
	}
	if first.VPC.Bits() != 16 || !first.VPC.Contains(first.host()) {
		t.Errorf("VPC %s, host %s", first.VPC, first.host())
	}
	if len(first.AccessKeyID) != 20 || len(first.SecretAccessKey) != 40 {
		t.Errorf("keys of %d and %d characters", len(first.AccessKeyID), len(first.SecretAccessKey))
	}
	if _, err := loadSettings(dir, "other"); err == nil || !strings.Contains(err.Error(), `"kip"`) {
		t.Errorf("another cluster's directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cluster.json"), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := loadSettings(dir, "kip"); err == nil || !strings.Contains(err.Error(), "cluster.json") {
		t.Errorf("%v", err)
	}
	other, err := newSettings("other")
	if err != nil || other.SecretAccessKey == first.SecretAccessKey {
		t.Errorf("%v", err)
	}
}

func TestOpen(t *testing.T) {
	dir := t.TempDir()
	for _, bad := range []string{"", "tenletters", "Kip", "a-b", "../x", "a b"} {
		if _, err := Open(Config{Name: bad, Dir: dir, Root: dir}); err == nil {
			t.Errorf("name %q was taken", bad)
		}
	}
	c, err := Open(Config{Name: "kip", Dir: dir, Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := Open(Config{Name: "kip", Dir: dir, Root: dir}); err == nil || !strings.Contains(err.Error(), "another command") {
		t.Errorf("two commands at once: %v", err)
	}
	var names []string
	for _, p := range c.all() {
		names = append(names, p.Name)
	}
	if diff := cmp.Diff(Components, names); diff != "" {
		t.Errorf("Components are not the processes: %s", diff)
	}
	if err := c.Start(t.Context(), "kubelet"); err == nil || !strings.Contains(err.Error(), "kube-apiserver") {
		t.Errorf("the error must name what there is: %v", err)
	}
	if states, err := c.Status(t.Context()); err != nil || len(states) != len(Components)-2 || states[0].Running {
		t.Errorf("%+v, %v", states, err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if c, err = Open(Config{Name: "kip", Dir: dir, Root: dir}); err != nil {
		t.Fatal(err)
	}
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestSourceTree(t *testing.T) {
	root := t.TempDir()
	deep := filepath.Join(root, "internal", "x")
	nested := filepath.Join(root, "tools", "kubelet")
	for dir, module := range map[string]string{root: "module github.com/elotl/kip/v2\n\ngo 1.26\n", nested: "module github.com/elotl/kip/v2/tools/kubelet\n", deep: ""} {
		if err := os.MkdirAll(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if module != "" {
			if err := os.WriteFile(filepath.Join(dir, "go.mod"), []byte(module), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, from := range []string{root, deep, nested} {
		t.Chdir(from)
		if got := sourceTree(); got != root {
			t.Errorf("from %s: %s", from, got)
		}
	}
	elsewhere := t.TempDir()
	t.Chdir(elsewhere)
	if got := sourceTree(); got != elsewhere {
		t.Errorf("outside of any tree: %s", got)
	}
}

func TestConfigurationFiles(t *testing.T) {
	dir := t.TempDir()
	c, err := Open(Config{Name: "kip", Dir: dir, Root: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for _, write := range []func() error{c.writeCredentials, c.writeRegistryConfig, c.writeCorefile, func() error { return c.writeProviderConfig("vpc-1", c.ec2URL()) }} {
		if err := write(); err != nil {
			t.Fatal(err)
		}
	}
	var credentials map[string]string
	data, err := os.ReadFile(c.path("ec2-credentials.json"))
	if err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(data, &credentials); err != nil || credentials[c.settings.AccessKeyID] != c.settings.SecretAccessKey {
		t.Errorf("%v, %v", credentials, err)
	}
	for file, want := range map[string]string{
		"provider.yaml": "vpcID: vpc-1", "Corefile": "bind " + c.settings.host().String(), "registry.yaml": c.registryAddress(),
	} {
		data, err := os.ReadFile(c.path(file))
		if err != nil || !strings.Contains(string(data), want) || strings.Contains(string(data), "<no value>") {
			t.Errorf("%s: %s, %v", file, data, err)
		}
		if info, err := os.Stat(c.path(file)); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("%s: %v, %v", file, info.Mode(), err)
		}
	}
}

func TestCommandErrors(t *testing.T) {
	dir := t.TempDir()
	for name, tc := range map[string]struct {
		args []string
		want string
	}{
		"unknown component": {[]string{"logs", "kubelet"}, "kube-apiserver"},
		"no log":            {[]string{"logs", "kip"}, "has no log"},
		"no component":      {[]string{"logs"}, "arg"},
		"no cluster":        {[]string{"status"}, "kip-local up makes it"},
		"no kubeconfig":     {[]string{"kubeconfig"}, "kip-local up makes it"},
		"nothing to load":   {[]string{"load"}, "arg"},
		"load, no cluster":  {[]string{"load", "x.tar"}, "kip-local up makes it"},
		"unknown command":   {[]string{"upp"}, "upp"},
	} {
		t.Run(name, func(t *testing.T) {
			cmd := NewCommand()
			cmd.SetArgs(append(tc.args, "--root="+dir, "--dir="+filepath.Join(dir, "none")))
			cmd.SetOut(&bytes.Buffer{})
			cmd.SetErr(&bytes.Buffer{})
			if err := cmd.ExecuteContext(context.Background()); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%v, want something about %q", err, tc.want)
			}
		})
	}
	var out bytes.Buffer
	cmd := NewCommand()
	cmd.SetArgs([]string{"down", "--root=" + dir, "--dir=" + filepath.Join(dir, "none")})
	cmd.SetErr(&out)
	if err := cmd.ExecuteContext(t.Context()); err != nil || !strings.Contains(out.String(), "nothing to end") {
		t.Errorf("%s, %v", out.String(), err)
	}
}

func TestWaitingFor(t *testing.T) {
	conditions := func(c ...corev1.PodCondition) *corev1.Pod {
		return &corev1.Pod{Status: corev1.PodStatus{Conditions: c}}
	}
	cell := corev1.PodCondition{Type: v1beta1.PodConditionCellReady, Message: "the instance boots"}
	pulling := conditions(cell)
	pulling.Status.ContainerStatuses = []corev1.ContainerStatus{{State: corev1.ContainerState{Waiting: &corev1.ContainerStateWaiting{Reason: "ErrImagePull", Message: "not found"}}}}
	for want, pod := range map[string]*corev1.Pod{
		"it has no node yet":      conditions(),
		"the instance boots":      conditions(cell),
		"ErrImagePull: not found": pulling,
		"Ready":                   conditions(cell, corev1.PodCondition{Type: corev1.PodReady, Status: corev1.ConditionTrue}),
	} {
		if got := waitingFor(pod); got != want {
			t.Errorf("%q, want %q", got, want)
		}
	}
}
