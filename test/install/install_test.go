package install

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"sigs.k8s.io/yaml"
)

const root = "../.."

// tool is the path of one of the programs that make tools builds.
func tool(t *testing.T, name string) string {
	t.Helper()
	path, err := filepath.Abs(filepath.Join(root, ".cache", "tools", "bin", name))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Skipf("%s is not built (make tools)", name)
	}
	return path
}

// variables are those of the page's example, with nothing left out.
func variables() map[string]string {
	return map[string]string{
		"CLUSTER_NAME": "prod", "USE_REGION": "us-west-2", "IMAGE_TAG": "1.0-latest",
		"KIP_SERVICE_ACCOUNT_ROLE_ARN": "arn:aws:iam::012345678910:role/kip-enterprise",
		"NAMESPACE":                    "elotl-kip",
		"IMAGE_REGISTRY":               "117940112483.dkr.ecr.us-east-1.amazonaws.com/4737f648-c51e-4cca-a3a5-afe7268bf539/cg-2196059056",
		"CELL_INSTANCE_PROFILE_ARN":    "arn:aws:iam::111234567890:instance-profile/kip-cell",
		"VPC_ID":                       "vpc-0123456789abcdef0", "KIP_CELL_SG": "sg-0123456789abcdef0,sg-1", "CLUSTER_DNS": "10.100.0.10", "CELL_IMAGE_ID": "ami-0123456789abcdef0,ami-1",
		"CELL_SOFTWARE_URL":    "https://kip-cells.s3.us-west-2.amazonaws.com/kip-cell-software-1.tar.gz?a=b",
		"CELL_SOFTWARE_SHA256": "0d16d06887d71c1869cb4f99e52af8b6bf4cd7f62c159d78f2810733d138d6d2",
	}
}

// script runs one of the scripts with these variables and nothing else of the
// environment, and with dir's programs before the machine's.
func script(t *testing.T, dir, name string, vars map[string]string, args ...string) (stdout, stderr string, code int) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "bash", append([]string{filepath.Join(root, "kustomize", name)}, args...)...)
	cmd.Env = []string{"PATH=" + dir + ":/usr/local/bin:/usr/bin:/bin", "HOME=" + t.TempDir()}
	for k, v := range vars {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	err := cmd.Run()
	if exit, ok := errors.AsType[*exec.ExitError](err); ok {
		code = exit.ExitCode()
	} else if err != nil {
		t.Fatal(err)
	}
	return out.String(), errs.String(), code
}

// programs makes a folder with these executables.
func programs(t *testing.T, texts map[string]string) string {
	t.Helper()
	dir := t.TempDir()
	for name, text := range texts {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	return dir
}

// withKubectl is a folder with the kubectl that was built, and without a
// kustomize of the machine's.
func withKubectl(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	kubectl := tool(t, "kubectl")
	if err := os.Symlink(kubectl, filepath.Join(dir, "kubectl")); err != nil {
		t.Fatal(err)
	}
	build := fmt.Sprintf("#!/bin/sh\n[ \"$1\" = build ] && exec %s kustomize \"$2\"\n", kubectl)
	if err := os.WriteFile(filepath.Join(dir, "kustomize"), []byte(build), 0o700); err != nil {
		t.Fatal(err)
	}
	return dir
}

// object is what every manifest has.
type object struct {
	Kind     string `json:"kind"`
	Metadata struct {
		Name        string            `json:"name"`
		Namespace   string            `json:"namespace"`
		Annotations map[string]string `json:"annotations"`
	} `json:"metadata"`
	text []byte
}

func (o object) key() string { return o.Kind + " " + o.Metadata.Namespace + "/" + o.Metadata.Name }

// into decodes o as the API server would: a field that the type does not have
// is an error, and so is a number for a string.
func (o object) into(t *testing.T, typed any) {
	t.Helper()
	data, err := yaml.YAMLToJSONStrict(o.text)
	if err != nil {
		t.Fatalf("%s: %v", o.key(), err)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.DisallowUnknownFields()
	if err := d.Decode(typed); err != nil {
		t.Fatalf("%s: %v", o.key(), err)
	}
}

func objects(t *testing.T, manifests string) map[string]object {
	t.Helper()
	all := map[string]object{}
	for text := range strings.SplitSeq(manifests, "\n---\n") {
		o := object{text: []byte(text)}
		if err := yaml.Unmarshal(o.text, &o); err != nil {
			t.Fatalf("%v in:\n%s", err, text)
		}
		if o.Kind == "" {
			continue
		}
		if _, twice := all[o.key()]; twice {
			t.Fatalf("%s is there twice", o.key())
		}
		all[o.key()] = o
	}
	return all
}

func find(t *testing.T, all map[string]object, key string) object {
	t.Helper()
	o, ok := all[key]
	if !ok {
		t.Fatalf("there is no %s", key)
	}
	return o
}

func read(t *testing.T, path string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func TestScriptsAreClean(t *testing.T) {
	if _, err := exec.LookPath("shellcheck"); err != nil {
		t.Skip("shellcheck is not installed (make deps-test)")
	}
	scripts, err := filepath.Glob(filepath.Join(root, "kustomize", "*.sh"))
	if err != nil || len(scripts) == 0 {
		t.Fatal(scripts, err)
	}
	if out, err := exec.CommandContext(t.Context(), "shellcheck", scripts...).CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}
