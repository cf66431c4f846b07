package install

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	appsv1 "k8s.io/api/apps/v1"
	batchv1 "k8s.io/api/batch/v1"
	corev1 "k8s.io/api/core/v1"
	policyv1 "k8s.io/api/policy/v1"
	rbacv1 "k8s.io/api/rbac/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/labels"
	securityapi "k8s.io/pod-security-admission/api"
	security "k8s.io/pod-security-admission/policy"

	"github.com/elotl/kip/v2/internal/config"
	"github.com/elotl/kip/v2/internal/kip"
)

// refusing is a kubectl that leaves a trace of every call.
const refusing = "#!/bin/sh\necho \"$@\" >>\"$(dirname \"$0\")/called\"\nexit 1\n"

func TestDeployRefuses(t *testing.T) {
	tests := map[string]struct {
		reason string
		set    map[string]string // an empty value takes the variable away
		want   []string
	}{
		"no role": {
			"Kip without a role could launch nothing", map[string]string{"KIP_SERVICE_ACCOUNT_ROLE_ARN": ""},
			[]string{"KIP_SERVICE_ACCOUNT_ROLE_ARN is not set", "arn:aws:iam::012345678910:role/"},
		},
		"nothing set": {
			"all that is missing is said at once",
			map[string]string{"CLUSTER_NAME": "", "USE_REGION": "", "IMAGE_TAG": "", "KIP_SERVICE_ACCOUNT_ROLE_ARN": ""},
			[]string{"CLUSTER_NAME is not set", "USE_REGION is not set", "IMAGE_TAG is not set", "KIP_SERVICE_ACCOUNT_ROLE_ARN is not set"},
		},
		"a profile for a role": {
			"the two ARNs are easily taken for each other",
			map[string]string{"KIP_SERVICE_ACCOUNT_ROLE_ARN": "arn:aws:iam::012345678910:instance-profile/kip"},
			[]string{`KIP_SERVICE_ACCOUNT_ROLE_ARN is "arn:aws:iam::012345678910:instance-profile/kip"`},
		},
		"a role for a profile": {
			"the same", map[string]string{"CELL_INSTANCE_PROFILE_ARN": "arn:aws:iam::012345678910:role/kip"}, []string{"CELL_INSTANCE_PROFILE_ARN is"},
		},
		"a zone":    {"a zone is no region", map[string]string{"USE_REGION": "us-west-2a"}, []string{`USE_REGION is "us-west-2a"`}},
		"the group": {"a name is no ID", map[string]string{"KIP_CELL_SG": "kip-cells"}, []string{`KIP_CELL_SG is "kip-cells"`}},
		"the VPC":   {"a placeholder that was not replaced", map[string]string{"VPC_ID": "<vpc ID>"}, []string{`VPC_ID is "<vpc ID>"`}},
		"no VPC": {
			"without the AWS CLI nobody knows it", map[string]string{"VPC_ID": ""}, []string{"VPC_ID is not set", "aws ec2 describe-vpcs"},
		},
		"namespace":    {"it is removed with Kip", map[string]string{"NAMESPACE": "kube-system"}, []string{"NAMESPACE is kube-system"}},
		"NFS endpoint": {"a host alone is none", map[string]string{"NFS_VOLUME_ENDPOINT": "fs-1.efs"}, []string{`NFS_VOLUME_ENDPOINT is "fs-1.efs"`}},
		"NFS path":     {"it ends up in YAML", map[string]string{"NFS_VOLUME_ENDPOINT": "fs-1.efs:/a\"b"}, []string{"NFS_VOLUME_ENDPOINT is"}},
		"cache role":   {"no role of any account", map[string]string{"NFS_VOLUME_ENDPOINT": "a:/", "IMAGE_CACHE_ROLE_ARN": "kip"}, []string{`IMAGE_CACHE_ROLE_ARN is "kip"`}},
		"no cache":     {"a size of nothing", map[string]string{"IMAGE_CACHE_MAX_SIZE": "500Gi"}, []string{"NFS_VOLUME_ENDPOINT is not"}},
		"injection": {
			"values end up in YAML", map[string]string{"CLUSTER_NAME": "a\nb: c"}, []string{"CLUSTER_NAME is"},
		},
		"software without a hash": {
			"cells would run whatever is there", map[string]string{"CELL_SOFTWARE_SHA256": ""}, []string{"CELL_SOFTWARE_SHA256 one is not set"},
		},
		"another hash": {"", map[string]string{"CELL_SOFTWARE_SHA256": "d41d8cd98f00b204e9800998ecf8427e"}, []string{"CELL_SOFTWARE_SHA256 is"}},
		"nodes":        {"none would be no Kip", map[string]string{"VIRTUAL_NODES": "0"}, []string{`VIRTUAL_NODES is "0"`}},
		"no file":      {"", map[string]string{"PROVIDER_CONFIG": "/nowhere"}, []string{"PROVIDER_CONFIG is /nowhere"}},
		"said twice": {
			"a variable without a place would be ignored", map[string]string{"PROVIDER_CONFIG": "/dev/null"}, []string{"VPC_ID is set, and", "KIP_CELL_SG is set, and"},
		},
	}
	for name, tc := range tests {
		t.Run(name, func(t *testing.T) {
			dir := programs(t, map[string]string{"kubectl": refusing, "aws": "#!/bin/sh\nexit 1\n"})
			vars := variables()
			for k, v := range tc.set {
				if vars[k] = v; v == "" {
					delete(vars, k)
				}
			}
			_, stderr, code := script(t, dir, "deploy.sh", vars)
			if code != 2 || !strings.Contains(stderr, "nothing was changed") {
				t.Errorf("%s: exit code %d\n%s", tc.reason, code, stderr)
			}
			for _, want := range tc.want {
				if !strings.Contains(stderr, want) {
					t.Errorf("%s: it does not say %q:\n%s", tc.reason, want, stderr)
				}
			}
			if called, err := os.ReadFile(filepath.Join(dir, "called")); err == nil {
				t.Errorf("kubectl was called: %s", called)
			}
		})
	}
}

func TestDeployAsksTheClusterForItsVPC(t *testing.T) {
	dir := withKubectl(t)
	aws := "#!/bin/sh\n[ \"$*\" = 'eks describe-cluster --name prod --region us-west-2 --query cluster.resourcesVpcConfig.vpcId --output text' ] && echo vpc-eks\n"
	if err := os.WriteFile(filepath.Join(dir, "aws"), []byte(aws), 0o700); err != nil {
		t.Fatal(err)
	}
	vars := variables()
	delete(vars, "VPC_ID")
	out, stderr, code := script(t, dir, "deploy.sh", vars, "--render")
	if code != 0 || !strings.Contains(out, "vpcID: vpc-eks") {
		t.Errorf("%d\n%s", code, stderr)
	}
}

// render is what deploy.sh would apply.
func render(t *testing.T, vars map[string]string) map[string]object {
	t.Helper()
	out, stderr, code := script(t, withKubectl(t), "deploy.sh", vars, "--render")
	if code != 0 {
		t.Fatalf("deploy.sh --render: %d\n%s", code, stderr)
	}
	if strings.Contains(out, "${") {
		t.Errorf("a variable was not filled in:\n%s", out)
	}
	return objects(t, out)
}

func TestDeployKeepsToTheNamespace(t *testing.T) {
	all := render(t, variables())
	elsewhere := []string{
		"Role kube-node-lease/kip-provider", "RoleBinding kube-node-lease/kip-provider", "RoleBinding kube-system/kip-provider-client-ca",
	}
	for key, o := range all {
		switch o.Metadata.Namespace {
		case "elotl-kip", "":
		default:
			if !slices.Contains(elsewhere, key) {
				t.Errorf("%s is in another namespace", key)
			}
		}
		if o.Kind != "RoleBinding" && o.Kind != "ClusterRoleBinding" {
			continue
		}
		var binding rbacv1.RoleBinding // a ClusterRoleBinding has the same fields
		o.into(t, &binding)
		want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "kip-provider", Namespace: "elotl-kip"}}
		if diff := cmp.Diff(want, binding.Subjects); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	for _, key := range append(elsewhere, "Namespace /elotl-kip", "Role elotl-kip/kip-provider", "ClusterRoleBinding /kip-provider") {
		find(t, all, key)
	}
}

func TestDeployedPod(t *testing.T) {
	all := render(t, variables())
	var set appsv1.StatefulSet
	find(t, all, "StatefulSet elotl-kip/kip-provider").into(t, &set)
	checkPod(t, &set.Spec.Template.Spec)
	container := set.Spec.Template.Spec.Containers[0]
	if want := variables()["IMAGE_REGISTRY"] + "/kip:1.0-latest"; container.Image != want {
		t.Errorf("image %s, want %s", container.Image, want)
	}
	run := kip.NewCommand()
	if container.Args[0] != run.Name() {
		t.Errorf("it runs kip %s", container.Args[0])
	}
	if err := run.ParseFlags(container.Args[1:]); err != nil {
		t.Errorf("kip run refuses the StatefulSet's flags: %v", err)
	}
	for _, probe := range []*corev1.Probe{container.LivenessProbe, container.ReadinessProbe} {
		i := slices.IndexFunc(container.Ports, func(p corev1.ContainerPort) bool { return p.Name == probe.HTTPGet.Port.String() })
		if i < 0 || !strings.HasSuffix(run.Flag("health-listen").DefValue, ":8081") || container.Ports[i].ContainerPort != 8081 {
			t.Errorf("the probe of %s does not ask where Kip listens", probe.HTTPGet.Path)
		}
	}

	var service corev1.Service
	find(t, all, "Service elotl-kip/kip-provider").into(t, &service)
	var budget policyv1.PodDisruptionBudget
	find(t, all, "PodDisruptionBudget elotl-kip/kip-provider").into(t, &budget)
	for _, selector := range []map[string]string{service.Spec.Selector, budget.Spec.Selector.MatchLabels, set.Spec.Selector.MatchLabels} {
		for k, v := range selector {
			if set.Spec.Template.Labels[k] != v {
				t.Errorf("nothing selects %s=%s", k, v)
			}
		}
	}
	if set.Spec.ServiceName != service.Name {
		t.Errorf("the StatefulSet's Service is %s", set.Spec.ServiceName)
	}

	// Another configuration is another pod.
	other := variables()
	other["KIP_CELL_SG"] = "sg-2"
	var changed appsv1.StatefulSet
	find(t, render(t, other), "StatefulSet elotl-kip/kip-provider").into(t, &changed)
	if cmp.Equal(set.Spec.Template.Annotations, changed.Spec.Template.Annotations) {
		t.Error("another provider.yaml does not restart Kip")
	}
}

// checkPod holds a pod against the restricted standard, which the namespace
// enforces, as the API server's admission does, and keeps it off cells.
func checkPod(t *testing.T, pod *corev1.PodSpec) {
	t.Helper()
	checkPodAt(t, securityapi.LevelRestricted, pod)
}

func checkPodAt(t *testing.T, level securityapi.Level, pod *corev1.PodSpec) {
	t.Helper()
	standard, err := security.NewEvaluator(security.DefaultChecks(), nil)
	if err != nil {
		t.Fatal(err)
	}
	enforced := securityapi.LevelVersion{Level: level, Version: securityapi.LatestVersion()}
	verdict := security.AggregateCheckResults(standard.EvaluatePod(enforced, &metav1.ObjectMeta{}, pod))
	if !verdict.Allowed {
		t.Errorf("the pod has more rights than its namespace allows: %s", verdict.ForbiddenDetail())
	}
	if !*pod.Containers[0].SecurityContext.ReadOnlyRootFilesystem {
		t.Error("the pod may write to its own program")
	}
	terms := pod.Affinity.NodeAffinity.RequiredDuringSchedulingIgnoredDuringExecution.NodeSelectorTerms
	never := corev1.NodeSelectorRequirement{Key: "type", Operator: corev1.NodeSelectorOpNotIn, Values: []string{"virtual-kubelet"}}
	for _, term := range terms {
		if !slices.ContainsFunc(term.MatchExpressions, func(r corev1.NodeSelectorRequirement) bool { return cmp.Equal(r, never) }) {
			t.Error("the pod may land on a cell")
		}
	}
}

func TestDeployedConfiguration(t *testing.T) {
	var configMap corev1.ConfigMap
	all := render(t, variables())
	find(t, all, "ConfigMap elotl-kip/kip-provider").into(t, &configMap)
	c, err := config.Parse([]byte(configMap.Data["provider.yaml"]))
	if err != nil {
		t.Fatal(err)
	}
	v := variables()
	if len(c.Cells.Software) != 1 || c.Cells.Software[0].Architecture != "amd64" {
		t.Fatalf("software of cells: %+v", c.Cells.Software)
	}
	got := map[string]string{
		"CLUSTER_NAME": configMap.Data["cluster-name"], "KIP_SERVICE_ACCOUNT_ROLE_ARN": configMap.Data["role-arn"],
		"USE_REGION": c.Cloud.AWS.Region, "VPC_ID": c.Cloud.AWS.VPCID, "CELL_INSTANCE_PROFILE_ARN": c.Cells.DefaultIAMPermissions,
		"CELL_SOFTWARE_URL": c.Cells.Software[0].URL, "CELL_SOFTWARE_SHA256": c.Cells.Software[0].SHA256,
		"CELL_IMAGE_ID": c.Cells.BootImageSpec.ImageIDs, "KIP_CELL_SG": strings.Join(c.Cells.ExtraSecurityGroups, ","), "CLUSTER_DNS": strings.Join(c.Kubelet.ClusterDNS, ","),
	}
	for name, value := range got {
		if value != v[name] {
			t.Errorf("%s is %q in the cluster, want %q", name, value, v[name])
		}
	}
	account := find(t, all, "ServiceAccount elotl-kip/kip-provider")
	if account.Metadata.Annotations["eks.amazonaws.com/role-arn"] != v["KIP_SERVICE_ACCOUNT_ROLE_ARN"] {
		t.Errorf("the service account's role: %v", account.Metadata.Annotations)
	}

	// The least that may be set.
	for _, name := range []string{"CELL_SOFTWARE_URL", "CELL_SOFTWARE_SHA256", "CELL_IMAGE_ID", "CELL_INSTANCE_PROFILE_ARN", "KIP_CELL_SG", "CLUSTER_DNS", "NAMESPACE", "IMAGE_REGISTRY"} {
		delete(v, name)
	}
	find(t, render(t, v), "ConfigMap kip/kip-provider").into(t, &configMap)
	if _, err := config.Parse([]byte(configMap.Data["provider.yaml"])); err != nil {
		t.Errorf("without the optional variables: %v", err)
	}

	// A provider.yaml of one's own.
	own := filepath.Join(t.TempDir(), "provider.yaml")
	if err := os.WriteFile(own, []byte("cloud: {aws: {region: us-west-2, vpcID: \"${VPC_ID}\"}} # ${NOT_OURS}\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	v["VPC_ID"], v["PROVIDER_CONFIG"] = "vpc-1", own
	out, stderr, code := script(t, withKubectl(t), "deploy.sh", v, "--render")
	if code != 0 || !strings.Contains(out, "vpcID: \"vpc-1\"") || !strings.Contains(out, "${NOT_OURS}") {
		t.Errorf("%d %s\n%s", code, stderr, out)
	}
}

// TestDeployedImageCache: with a file server there is a controller that fills it,
// and Kip knows where cells find it.
func TestDeployedImageCache(t *testing.T) {
	v := variables()
	v["NFS_VOLUME_ENDPOINT"], v["IMAGE_CACHE_KEEP"] = "fs-1.efs.us-west-2.amazonaws.com:/kip", "nginx:1,busybox"
	all := render(t, v)
	var deployment appsv1.Deployment
	find(t, all, "Deployment elotl-kip/kip-image-cache").into(t, &deployment)
	pod := deployment.Spec.Template.Spec
	checkPodAt(t, securityapi.LevelBaseline, &pod)
	var namespace corev1.Namespace
	find(t, all, "Namespace /elotl-kip").into(t, &namespace)
	if level := namespace.Labels["pod-security.kubernetes.io/enforce"]; level != "baseline" {
		t.Errorf("the namespace enforces %s", level)
	}
	container := pod.Containers[0]
	if want := v["IMAGE_REGISTRY"] + "/kip:1.0-latest"; container.Image != want {
		t.Errorf("image %s, want %s", container.Image, want)
	}
	command := kip.NewImageCacheCommand()
	if container.Args[0] != command.Name() {
		t.Errorf("it runs kip %s", container.Args[0])
	}
	if err := command.ParseFlags(container.Args[1:]); err != nil {
		t.Errorf("kip image-cache refuses the Deployment's flags: %v", err)
	}
	if keep, err := command.Flags().GetStringSlice("keep"); err != nil || !slices.Equal(keep, []string{"nginx:1", "busybox"}) {
		t.Errorf("it keeps %v, error %v", keep, err)
	}
	share := pod.Volumes[slices.IndexFunc(pod.Volumes, func(v corev1.Volume) bool { return v.Name == "share" })].NFS
	if share == nil || share.Server != "fs-1.efs.us-west-2.amazonaws.com" || share.Path != "/kip" {
		t.Errorf("the share is %+v", share)
	}
	for _, key := range []string{"ClusterRoleBinding /kip-image-cache", "RoleBinding elotl-kip/kip-image-cache"} {
		var binding rbacv1.RoleBinding
		find(t, all, key).into(t, &binding)
		want := []rbacv1.Subject{{Kind: "ServiceAccount", Name: "kip-image-cache", Namespace: "elotl-kip"}}
		if diff := cmp.Diff(want, binding.Subjects); diff != "" {
			t.Errorf("%s: %s", key, diff)
		}
	}
	var configMap corev1.ConfigMap
	find(t, all, "ConfigMap elotl-kip/kip-provider").into(t, &configMap)
	c, err := config.Parse([]byte(configMap.Data["provider.yaml"]))
	if err != nil || c.Cells.ImageCache == nil || c.Cells.ImageCache.Endpoint != v["NFS_VOLUME_ENDPOINT"] {
		t.Errorf("Kip's image cache is %+v, error %v", c.Cells.ImageCache, err)
	}

	// It has a role only when it was given one.
	var account corev1.ServiceAccount
	find(t, all, "ServiceAccount elotl-kip/kip-image-cache").into(t, &account)
	if len(account.Annotations) > 0 {
		t.Errorf("its service account has annotations %v", account.Annotations)
	}
	v["IMAGE_CACHE_ROLE_ARN"] = "arn:aws:iam::123456789012:role/kip-image-cache"
	find(t, render(t, v), "ServiceAccount elotl-kip/kip-image-cache").into(t, &account)
	if account.Annotations["eks.amazonaws.com/role-arn"] != v["IMAGE_CACHE_ROLE_ARN"] {
		t.Errorf("its service account has annotations %v", account.Annotations)
	}

	// Nothing is kept, and any size allowed.
	delete(v, "IMAGE_CACHE_KEEP")
	find(t, render(t, v), "Deployment elotl-kip/kip-image-cache").into(t, &deployment)
	command = kip.NewImageCacheCommand()
	if err := command.ParseFlags(deployment.Spec.Template.Spec.Containers[0].Args[1:]); err != nil {
		t.Error(err)
	}
	if keep, err := command.Flags().GetStringSlice("keep"); err != nil || len(keep) > 0 {
		t.Errorf("it keeps %q, error %v", keep, err)
	}

	// None at all.
	for key := range render(t, variables()) {
		if strings.Contains(key, "image-cache") {
			t.Errorf("without a file server there is %s", key)
		}
	}
}

// TestDeploySeveral: each virtual node has its rights and a second Kip.
func TestDeploySeveral(t *testing.T) {
	vars := variables()
	vars["VIRTUAL_NODES"], vars["SECOND_KIP"] = "2", "true"
	all := render(t, vars)
	var names []string
	for _, key := range []string{"ClusterRole /kip-provider", "Role elotl-kip/kip-provider", "Role kube-node-lease/kip-provider"} {
		var role rbacv1.ClusterRole // a Role has the same fields
		find(t, all, key).into(t, &role)
		for _, rule := range role.Rules {
			for _, name := range rule.ResourceNames {
				if strings.HasSuffix(name, "kip-provider-0") || strings.HasSuffix(name, "kip-provider-1") {
					names = append(names, name)
				}
			}
		}
	}
	want := []string{
		"kip-provider-0", "kip-provider-1", "system:node:kip-provider-0", "system:node:kip-provider-1",
		"kip-usage-kip-provider-0", "kip-usage-kip-provider-1", "kip-provider-0", "kip-provider-1", "kip-provider-0", "kip-provider-1",
	}
	if diff := cmp.Diff(want, names); diff != "" {
		t.Errorf("the rights name (-want +got): %s", diff)
	}

	var first, second appsv1.StatefulSet
	find(t, all, "StatefulSet elotl-kip/kip-provider").into(t, &first)
	find(t, all, "StatefulSet elotl-kip/kip-second").into(t, &second)
	for _, set := range []appsv1.StatefulSet{first, second} {
		if *set.Spec.Replicas != 2 {
			t.Errorf("%s has %d replicas", set.Name, *set.Spec.Replicas)
		}
		checkPod(t, &set.Spec.Template.Spec)
	}
	for _, of := range [][2]appsv1.StatefulSet{{first, second}, {second, first}} {
		selector, err := metav1.LabelSelectorAsSelector(of[0].Spec.Selector)
		if err != nil {
			t.Fatal(err)
		}
		if selector.Matches(labels.Set(of[1].Spec.Template.Labels)) {
			t.Errorf("%s would take the pods of %s for its own", of[0].Name, of[1].Name)
		}
	}
	args := second.Spec.Template.Spec.Containers[0].Args
	if !slices.Contains(args, "--node-name=kip-provider-$(POD_INDEX)") || !slices.Contains(args, "--leader-elect") {
		t.Errorf("the second Kip is run with %q", args)
	}
	var budget policyv1.PodDisruptionBudget
	find(t, all, "PodDisruptionBudget elotl-kip/kip-provider").into(t, &budget)
	selector, err := metav1.LabelSelectorAsSelector(budget.Spec.Selector)
	if err != nil {
		t.Fatal(err)
	}
	for _, set := range []appsv1.StatefulSet{first, second} {
		if !selector.Matches(labels.Set(set.Spec.Template.Labels)) {
			t.Errorf("both Kips of a node may be evicted at once: nothing counts %s", set.Name)
		}
	}
}

// TestDeployKeepsNodesWithCells: nobody but its own Kip ends a node's instances.
func TestDeployKeepsNodesWithCells(t *testing.T) {
	dir := programs(t, map[string]string{"kubectl": `#!/bin/sh
case "$*" in
*"get statefulset kip-provider"*) echo 3 ;;
*"get cells.kip.elotl.co --selector kip.elotl.co/node=kip-provider-2"*) echo cell/web-1 ;;
*apply*) echo "$*" >>"$(dirname "$0")/called" ;;
esac
`})
	vars := variables()
	vars["VIRTUAL_NODES"] = "2"
	_, stderr, code := script(t, dir, "deploy.sh", vars)
	if code != 2 || !strings.Contains(stderr, "kip-provider-2 has cells") {
		t.Errorf("exit code %d\n%s", code, stderr)
	}
	if called, err := os.ReadFile(filepath.Join(dir, "called")); err == nil {
		t.Errorf("something was applied: %s", called)
	}
}

func TestCleanupJob(t *testing.T) {
	text := strings.NewReplacer("${NAMESPACE}", "elotl-kip", "${KIP_IMAGE}", "registry/kip:1", "${KIP_NODE}", "kip-provider-0").Replace(read(t, "kustomize/cleanup/job.yaml"))
	if strings.Contains(strings.SplitN(text, "\napiVersion", 2)[1], "${") {
		t.Error("undeploy.sh does not fill in all of it")
	}
	var job batchv1.Job
	object{text: []byte(text)}.into(t, &job)
	checkPod(t, &job.Spec.Template.Spec)
	args := job.Spec.Template.Spec.Containers[0].Args
	cleanup := kip.NewCleanupCommand()
	if args[0] != cleanup.Name() {
		t.Errorf("it runs kip %s", args[0])
	}
	if err := cleanup.ParseFlags(args[1:]); err != nil {
		t.Errorf("kip cleanup refuses the Job's flags: %v", err)
	}
	// It must be the same Kip, by the same ways to the same cloud.
	var set appsv1.StatefulSet
	find(t, render(t, variables()), "StatefulSet elotl-kip/kip-provider").into(t, &set)
	environment := map[string]corev1.EnvVar{}
	for _, e := range set.Spec.Template.Spec.Containers[0].Env {
		environment[e.Name] = e
	}
	for _, e := range job.Spec.Template.Spec.Containers[0].Env {
		if diff := cmp.Diff(environment[e.Name], e); diff != "" {
			t.Errorf("%s is another than the StatefulSet's: %s", e.Name, diff)
		}
	}
}
