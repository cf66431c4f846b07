package install

import (
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"

	appsv1 "k8s.io/api/apps/v1"
)

// chart renders the Helm chart.
func chart(t *testing.T, args ...string) (string, error) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), tool(t, "helm"), append([]string{"template", "kip", "charts/kip", "--namespace", "elotl-kip"}, args...)...)
	cmd.Dir = root
	cmd.Env = []string{"HOME=" + t.TempDir(), "PATH=/usr/bin:/bin"}
	var stderr strings.Builder
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if err != nil {
		return stderr.String(), err
	}
	return string(out), nil
}

// values are those of variables in the chart's words.
func values() []string {
	v := variables()
	set := "--set-string=clusterName=" + v["CLUSTER_NAME"] + ",region=" + v["USE_REGION"] + ",roleARN=" + v["KIP_SERVICE_ACCOUNT_ROLE_ARN"] +
		",image.registry=" + v["IMAGE_REGISTRY"] + ",image.tag=" + v["IMAGE_TAG"] + ",vpcID=" + v["VPC_ID"] +
		",cellInstanceProfileARN=" + v["CELL_INSTANCE_PROFILE_ARN"] +
		",cellSoftware[0].architecture=amd64,cellSoftware[0].url=" + v["CELL_SOFTWARE_URL"] + ",cellSoftware[0].sha256=" + v["CELL_SOFTWARE_SHA256"] +
		",cellImageIDs={" + v["CELL_IMAGE_ID"] + "},cellSecurityGroups={" + v["KIP_CELL_SG"] + "},clusterDNS={" + v["CLUSTER_DNS"] + "}"
	return []string{set}
}

// TestChartEqualsKustomize: the two ways to install make the same objects.
func TestChartEqualsKustomize(t *testing.T) {
	t.Run("Plain", func(t *testing.T) { chartEqualsKustomize(t, variables(), values()) })
	with := variables()
	with["NFS_VOLUME_ENDPOINT"], with["IMAGE_CACHE_KEEP"], with["IMAGE_CACHE_MAX_SIZE"] = "fs-1.efs.us-west-2.amazonaws.com:/kip", "nginx:1,busybox", "500Gi"
	with["IMAGE_CACHE_ROLE_ARN"] = "arn:aws:iam::123456789012:role/kip-image-cache"
	set := "--set=imageCache.endpoint=" + with["NFS_VOLUME_ENDPOINT"] + ",imageCache.keep={" + with["IMAGE_CACHE_KEEP"] + "},imageCache.maxSize=" + with["IMAGE_CACHE_MAX_SIZE"] +
		",imageCache.roleARN=" + with["IMAGE_CACHE_ROLE_ARN"]
	t.Run("ImageCache", func(t *testing.T) { chartEqualsKustomize(t, with, append(values(), set)) })
	several := variables()
	several["VIRTUAL_NODES"], several["SECOND_KIP"] = "3", "true"
	t.Run("Several", func(t *testing.T) {
		chartEqualsKustomize(t, several, append(values(), "--set=virtualNodes=3,secondKip=true"))
	})
}

func chartEqualsKustomize(t *testing.T, variables map[string]string, values []string) {
	t.Helper()
	out, err := chart(t, values...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	helm, kustomize := objects(t, out), render(t, variables)

	// What is on purpose not the same.
	delete(kustomize, "Namespace /elotl-kip") // helm install --create-namespace makes it
	for key := range helm {
		if strings.HasPrefix(key, "Job elotl-kip/kip-cleanup") { // undeploy.sh runs them, below kustomize/cleanup
			delete(helm, key)
		}
	}
	const hash = "kip.elotl.co/provider-config"   // each way has its own sum of the same
	const keep = "helm.sh/resource-policy"        // Cells are not ended by helm uninstall
	comparable := func(o object) map[string]any { // any, since the point is to miss no field
		var all map[string]any
		if err := yaml.Unmarshal(o.text, &all); err != nil {
			t.Fatal(err)
		}
		if o.Kind == "CustomResourceDefinition" {
			annotations, _ := all["metadata"].(map[string]any)["annotations"].(map[string]any)
			delete(annotations, keep)
		}
		return all
	}
	for key, want := range kustomize {
		got, ok := helm[key]
		if !ok {
			t.Errorf("the chart lacks %s", key)
			continue
		}
		if want.Kind == "StatefulSet" || want.Kind == "Deployment" {
			var ours, theirs appsv1.StatefulSet // a Deployment has all of these fields that are used
			want.into(t, &ours)
			got.into(t, &theirs)
			for _, set := range []*appsv1.StatefulSet{&ours, &theirs} {
				if set.Spec.Template.Annotations[hash] == "" {
					t.Errorf("%s has no annotation %s", key, hash)
				}
				delete(set.Spec.Template.Annotations, hash)
			}
			if diff := cmp.Diff(ours, theirs); diff != "" {
				t.Errorf("%s, kustomize (-) and chart (+): %s", key, diff)
			}
			continue
		}
		if diff := cmp.Diff(comparable(want), comparable(got)); diff != "" {
			t.Errorf("%s, kustomize (-) and chart (+): %s", key, diff)
		}
	}
	for key := range helm {
		if _, ok := kustomize[key]; !ok {
			t.Errorf("only the chart has %s", key)
		}
	}
}

func TestChartCleansUp(t *testing.T) {
	out, err := chart(t, values()...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all := objects(t, out)
	job := find(t, all, "Job elotl-kip/kip-cleanup")
	if job.Metadata.Annotations["helm.sh/hook"] != "pre-delete" {
		t.Errorf("uninstalling would leave the security group: %v", job.Metadata.Annotations)
	}
	if strings.Contains(string(job.text), "${") {
		t.Errorf("a variable was not filled in:\n%s", job.text)
	}
	if crd := find(t, all, "CustomResourceDefinition /cells.kip.elotl.co"); crd.Metadata.Annotations["helm.sh/resource-policy"] != "keep" {
		t.Error("uninstalling would delete all Cells")
	}
}

func TestChartRefuses(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		args   []string
		want   string
	}{
		"no cluster":  {"two clusters without a name would take each other's instances for lost", []string{"--set-string=clusterName="}, "clusterName"},
		"no region":   {"", []string{"--set-string=region="}, "region"},
		"no role":     {"", []string{"--set-string=roleARN="}, "roleARN"},
		"no VPC":      {"", []string{"--set-string=vpcID="}, "vpcID is required"},
		"unknown key": {"a setting that is ignored is worse than one that is refused", []string{"--set=clustername=x"}, "clustername"},
		"a name for an ID": {
			"", []string{"--set-string=cellSecurityGroups={kip-cells}"}, "cellSecurityGroups",
		},
	} {
		t.Run(name, func(t *testing.T) {
			if out, err := chart(t, append(values(), tc.args...)...); err == nil || !strings.Contains(out, tc.want) {
				t.Errorf("%s: %v, want an error that names %s:\n%s", tc.reason, err, tc.want, out)
			}
		})
	}
}

// TestChartOptions: what has no variable of deploy.sh.
func TestChartOptions(t *testing.T) {
	out, err := chart(t, append(values(), "--set-string=vpcID=", "--set-string=providerConfig=cloud: {}\n", "--set=data.existingClaim=logs",
		"--set=nodeSelector.pool=system", "--set=tolerations[0].key=system", "--set=podAnnotations.a=b", "--set=imagePullSecrets[0].name=pull")...)
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	all := objects(t, out)
	if text := string(find(t, all, "ConfigMap elotl-kip/kip-provider").text); !strings.Contains(text, "cloud: {}") || strings.Contains(text, "region:") {
		t.Errorf("providerConfig is not all of it:\n%s", text)
	}
	var set appsv1.StatefulSet
	find(t, all, "StatefulSet elotl-kip/kip-provider").into(t, &set)
	pod := set.Spec.Template.Spec
	checkPod(t, &pod)
	var claim string
	for _, v := range pod.Volumes {
		if v.Name == "data" && v.PersistentVolumeClaim != nil {
			claim = v.PersistentVolumeClaim.ClaimName
		}
	}
	if claim != "logs" || pod.NodeSelector["pool"] != "system" || set.Spec.Template.Annotations["a"] != "b" || len(pod.ImagePullSecrets) != 1 ||
		pod.Tolerations[len(pod.Tolerations)-1].Key != "system" {
		t.Errorf("an option has no effect: %+v", pod)
	}
}
