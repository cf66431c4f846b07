package explain

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

var update = flag.Bool("update", false, "write the golden files instead of comparing with them")

// TestRun compares what the command prints with testdata/NAME.golden. The
// prices are those of the embedded catalogue: after a change of its data, run
// with -update and read the difference.
func TestRun(t *testing.T) {
	cases := map[string]struct {
		reason string
		args   []string
		stdin  string
		fails  bool
	}{
		"pod":        {reason: "a pod that says nothing", args: []string{"-f", "testdata/pod.yaml"}},
		"pod-json":   {reason: "for programs", args: []string{"-f", "testdata/pod.yaml", "-o", "json", "--candidates", "1"}},
		"web":        {reason: "several documents, workloads among others", args: []string{"-f", "testdata/web.yaml", "--zone", "us-west-2a,us-west-2b"}},
		"gpu":        {reason: "GPU models, a question about types", args: []string{"-f", "testdata/gpu.yaml", "--type", "g4dn.xlarge,g6.2xlarge,p9.large"}},
		"impossible": {reason: "each pod says what is wrong with it", args: []string{"-f", "testdata/impossible.yaml"}, fails: true},
		"config":     {reason: "region, type, volume and address from provider.yaml", args: []string{"-f", "testdata/pod.yaml", "--config", "testdata/provider.yaml"}},
		"catalogue":  {reason: "another catalogue", args: []string{"-f", "testdata/pod.yaml", "--catalogue", "testdata/catalogue.json", "--region", "here"}},
		"stdin": {
			reason: "JSON from a pipe",
			args:   []string{"-f", "-", "--region", "us-east-1"},
			stdin:  `{"apiVersion": "v1", "kind": "Pod", "metadata": {"generateName": "x-"}, "spec": {"containers": [{"name": "a", "resources": {"requests": {"cpu": "2"}}}]}}`,
		},
	}
	t.Setenv("AWS_REGION", "")
	t.Setenv("AWS_DEFAULT_REGION", "")
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			var out bytes.Buffer
			cmd := NewCommand()
			cmd.SetArgs(c.args)
			cmd.SetIn(strings.NewReader(c.stdin))
			cmd.SetOut(&out)
			err := cmd.ExecuteContext(t.Context())
			if c.fails != errors.Is(err, ErrNoFit) || !c.fails && err != nil {
				t.Fatalf("%s: error %v", c.reason, err)
			}
			golden := filepath.Join("testdata", name+".golden")
			if *update {
				if err := os.WriteFile(golden, out.Bytes(), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			want, err := os.ReadFile(golden)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(string(want), out.String()); diff != "" {
				t.Errorf("%s: -want +got\n%s", c.reason, diff)
			}
		})
	}
}

// TestJSON: the format is read by programs, which must not need to know Go.
func TestJSON(t *testing.T) {
	var out bytes.Buffer
	o := Options{Files: []string{"testdata/web.yaml"}, Output: JSON, Region: "us-west-2", Candidates: 2}
	if err := Run(t.Context(), o, nil, &out); err != nil {
		t.Fatal(err)
	}
	var report struct {
		Pods []struct {
			Source  struct{ Kind, Name string }
			Request struct{ CPU, Memory string }
			Chosen  struct {
				InstanceType string
				HourlyUSD    float64
				Zones        []string
			}
			Candidates []struct{ HourlyUSD float64 }
		}
	}
	if err := json.Unmarshal(out.Bytes(), &report); err != nil {
		t.Fatal(err)
	}
	if len(report.Pods) != 2 {
		t.Fatalf("%d pods", len(report.Pods))
	}
	web := report.Pods[0]
	if web.Source.Kind != "Deployment" || web.Request.CPU != "500m" || web.Request.Memory != "1Gi" {
		t.Errorf("web: %+v", web)
	}
	for _, p := range report.Pods {
		last := p.Chosen.HourlyUSD
		if len(p.Candidates) != 2 || len(p.Chosen.Zones) == 0 {
			t.Errorf("%s: %+v", p.Source.Name, p)
		}
		for _, c := range p.Candidates {
			if c.HourlyUSD < last {
				t.Errorf("%s: a candidate is cheaper than the one before it", p.Source.Name)
			}
			last = c.HourlyUSD
		}
	}
}

func TestRunRefuses(t *testing.T) {
	cases := map[string]struct {
		reason string
		o      Options
		stdin  string
		want   []string
	}{
		"no such file":  {reason: "the file is named", o: Options{Files: []string{"testdata/none.yaml"}}, want: []string{"testdata/none.yaml"}},
		"output":        {reason: "what there is", o: Options{Output: "xml"}, want: []string{`"xml"`, "table or json"}},
		"region":        {reason: "what could be meant", o: Options{Region: "us-wst-2"}, want: []string{`"us-wst-2"`, "us-west-2"}},
		"zone":          {reason: "what there is", o: Options{Zones: []string{"us-west-2x"}}, want: []string{`"us-west-2x"`, "us-west-2a"}},
		"catalogue":     {reason: "the file is named", o: Options{CatalogueFile: "testdata/pod.yaml"}, want: []string{"testdata/pod.yaml"}},
		"config":        {reason: "the file is named", o: Options{ConfigFile: "testdata/pod.yaml"}, want: []string{"testdata/pod.yaml"}},
		"empty":         {reason: "nothing to explain", stdin: "# nothing\n---\n", want: []string{"standard input", "empty"}},
		"no pods":       {reason: "what was found instead", stdin: "{apiVersion: v1, kind: Service}\n---\n{apiVersion: v1, kind: ConfigMap}", want: []string{"no Pod", "only ConfigMap, Service"}},
		"no kind":       {reason: "which document", stdin: "{apiVersion: v1, kind: Service}\n---\na: 1", want: []string{"document 2", "kind is missing"}},
		"not YAML":      {reason: "which document", stdin: "{apiVersion: v1, kind: Service}\n---\na: [", want: []string{"standard input, document 2"}},
		"not an object": {reason: "a list is no object", stdin: "[1]", want: []string{"document 1", "no Kubernetes object"}},
		"misspelt": {
			reason: "file, document, object and field are named",
			stdin:  "{apiVersion: apps/v1, kind: Deployment, metadata: {name: web}, spec: {template: {spec: {containers: [{name: a, resources: {request: {cpu: 1}}}]}}}}",
			want:   []string{`document 1, Deployment "web"`, `spec.template.spec.containers[0].resources.request`},
		},
		"wrong type": {
			reason: "as above",
			stdin:  "{apiVersion: v1, kind: Pod, metadata: {name: p}, spec: {containers: {name: a}}}",
			want:   []string{`Pod "p"`, "spec.containers"},
		},
		"no containers": {reason: "not a pod yet", stdin: "{apiVersion: v1, kind: Pod, metadata: {name: p}}", want: []string{`Pod "p"`, "no containers"}},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			if c.o.Files == nil {
				c.o.Files = []string{"-"}
			}
			var out bytes.Buffer
			err := Run(t.Context(), c.o, strings.NewReader(c.stdin), &out)
			if err == nil || errors.Is(err, ErrNoFit) {
				t.Fatalf("%s: error %v", c.reason, err)
			}
			for _, part := range c.want {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("%s: %q does not say %q", c.reason, err, part)
				}
			}
			if out.Len() > 0 {
				t.Errorf("an error came with output:\n%s", out.String())
			}
		})
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := Run(ctx, Options{Files: []string{"testdata/pod.yaml"}}, nil, &bytes.Buffer{}); !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled: %v", err)
	}
}
