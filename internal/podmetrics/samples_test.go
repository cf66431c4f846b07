package podmetrics

import (
	"bytes"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	dto "github.com/prometheus/client_model/go"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/elotl/kip/v2/internal/podmetrics/podmetricstest"
)

// TestKubeletsAnswersPass: what a real kubelet says of its pod comes out as it
// went in, and what it says of the machine does not come out.
func TestKubeletsAnswersPass(t *testing.T) {
	for file, known := range map[string]*families{
		"resource.txt": resourceFamilies, "cadvisor.txt": cadvisorFamilies, "probes.txt": probesFamilies,
	} {
		t.Run(file, func(t *testing.T) {
			in := podmetricstest.Answer(file)
			want := parse(t, in)
			for name, family := range want {
				family.Metric = slices.DeleteFunc(family.Metric, func(m *dto.Metric) bool { return labels(m)["pod"] == "" })
				if len(family.Metric) == 0 {
					delete(want, name)
				}
			}
			if len(want) == 0 {
				t.Fatal("there is nothing about a pod in it")
			}
			s := parseSamples(in, known, subject{realNamespace, realName, realUID})
			var out bytes.Buffer
			if err := writeText(&out, known, []*samples{&s}); err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(want, parse(t, out.String()), protocmp.Transform()); diff != "" {
				t.Errorf("(-kubelet +Kip)\n%s", diff)
			}
			// The families are the kubelet's, in the order of their names.
			order := slices.Collect(func(yield func(string) bool) {
				for line := range strings.Lines(out.String()) {
					if name, ok := strings.CutPrefix(line, "# TYPE "); ok && !yield(strings.Fields(name)[0]) {
						return
					}
				}
			})
			if !slices.IsSorted(order) || len(order) != len(want) {
				t.Errorf("the order of families is %v", order)
			}
			if file == "cadvisor.txt" && len(s.data)+len(strings.Join(s.words, "")) > out.Len()/5 {
				t.Errorf("%d bytes and %d words are kept of %d bytes of text", len(s.data), len(s.words), out.Len())
			}
		})
	}
}

func TestSamplesOfACell(t *testing.T) {
	const own = `container="web",namespace="shop",pod="web"`
	of := subject{"shop", "web", "uid-1"}
	for name, tc := range map[string]struct {
		reason string
		line   string
		want   string // "" where the line is dropped
	}{
		"Sample":        {"as the kubelet writes it", `container_threads{` + own + `} 8 1795813834826`, `container_threads{` + own + `} 8 1795813834826`},
		"NoTime":        {"times are optional", `container_threads{` + own + `} 8`, `container_threads{` + own + `} 8`},
		"NaN":           {"a number to Prometheus", `container_threads{` + own + `} NaN`, `container_threads{` + own + `} NaN`},
		"Exponent":      {"numbers keep their form", `container_threads{` + own + `} 1.5e+06`, `container_threads{` + own + `} 1.5e+06`},
		"Escapes":       {"what the format escapes", `container_threads{image="a\\b\"c\nd",` + own + `} 1`, `container_threads{image="a\\b\"c\nd",` + own + `} 1`},
		"Braces":        {"a value may look like an end", `container_threads{image="a} 1",` + own + `} 1`, `container_threads{image="a} 1",` + own + `} 1`},
		"LastComma":     {"the format allows it", `container_threads{` + own + `,} 1`, `container_threads{` + own + `} 1`},
		"UID":           {"its own UID", `container_threads{` + own + `,pod_uid="uid-1"} 1`, `container_threads{` + own + `,pod_uid="uid-1"} 1`},
		"OtherUID":      {"another pod of that name", `container_threads{` + own + `,pod_uid="uid-2"} 1`, ""},
		"OtherPod":      {"a cell must not speak for another", `container_threads{namespace="shop",pod="other"} 1`, ""},
		"OtherSpace":    {"nor for one elsewhere", `container_threads{namespace="kube-system",pod="web"} 1`, ""},
		"Prefix":        {"names are compared whole", `container_threads{namespace="shop",pod="web2"} 1`, ""},
		"TwoPods":       {"both of which cannot be true", `container_threads{` + own + `,pod="other"} 1`, ""},
		"Twice":         {"Prometheus refuses a whole scrape for it", `container_threads{a="1",a="2",` + own + `} 1`, ""},
		"Hidden":        {"a pod inside of a value", `container_threads{x="y,namespace=\"shop\",pod=\"web\""} 1`, ""},
		"Machine":       {"what is about the instance", `container_threads{id="/"} 1`, ""},
		"NoPod":         {"half of a name", `container_threads{namespace="shop"} 1`, ""},
		"NoLabels":      {"about nothing", `container_threads 1`, ""},
		"Unknown":       {"no family of a kubelet's", `container_secrets{` + own + `} 1`, ""},
		"Node":          {"the node's figures are Kip's to give", `node_cpu_usage_seconds_total{` + own + `} 1`, ""},
		"Name":          {"a label that would rename the metric", `container_threads{__name__="up",` + own + `} 1`, ""},
		"BadLabel":      {"no name of a label", `container_threads{a-b="c",` + own + `} 1`, ""},
		"Digit":         {"no name of a label either", `container_threads{1a="c",` + own + `} 1`, ""},
		"EmptyLabel":    {"nor this", `container_threads{="c",` + own + `} 1`, ""},
		"NoQuote":       {"an open value", `container_threads{` + own + `,a="b} 1`, ""},
		"BadEscape":     {"an escape that there is not", `container_threads{a="\t",` + own + `} 1`, ""},
		"EscapeAtEnd":   {"cut off", `container_threads{` + own + `,a="\`, ""},
		"NotUTF8":       {"some readers refuse all of it", `container_threads{a="` + "\xff" + `",` + own + `} 1`, ""},
		"NUL":           {"some readers stop there", `container_threads{a="` + "\x00" + `",` + own + `} 1`, ""},
		"NoComma":       {"labels run together", `container_threads{a="b"` + own + `} 1`, ""},
		"NoSpace":       {"the value is missing", `container_threads{` + own + `}`, ""},
		"NoNumber":      {"no value", `container_threads{` + own + `} many`, ""},
		"Hex":           {"Go's numbers, but not Prometheus'", `container_threads{` + own + `} 0x1p-2`, ""},
		"BadTime":       {"no time", `container_threads{` + own + `} 1 now`, ""},
		"ThreeNumbers":  {"more than a value and a time", `container_threads{` + own + `} 1 2 3`, ""},
		"Long":          {"a label of kilobytes", `container_threads{a="` + strings.Repeat("x", maxWord) + `",` + own + `} 1`, ""},
		"ManyLabels":    {"labels without end", `container_threads{` + own + manyLabels() + `} 1`, ""},
		"Carriage":      {"no line's end in this format", "container_threads{" + own + "} 1\r", ""},
		"CommentInside": {"no type of a cell's making", "# TYPE container_threads histogram", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := parseSamples("# a comment\n"+tc.line+"\n", cadvisorFamilies, of)
			var out bytes.Buffer
			if err := writeText(&out, cadvisorFamilies, []*samples{{}, &s}); err != nil {
				t.Fatal(err)
			}
			want := ""
			if tc.want != "" {
				want = "# HELP container_threads Number of threads running inside the container\n# TYPE container_threads gauge\n" + tc.want + "\n"
			}
			if out.String() != want {
				t.Errorf("%s: %q, want %q", tc.reason, out.String(), want)
			}
		})
	}
}

func manyLabels() string {
	var b strings.Builder
	for c := range maxLabels {
		b.WriteString(`,l` + strings.Repeat("x", c) + `="y"`)
	}
	return b.String()
}

func TestSamplesAreBounded(t *testing.T) {
	line := `container_threads{namespace="shop",pod="web"} 1` + "\n"
	s := parseSamples(strings.Repeat(line, maxSamples+5), cadvisorFamilies, subject{"shop", "web", ""})
	if n := bytes.Count(s.appendText(nil, cadvisorFamilies.samples["container_threads"]), []byte("\n")); n != maxSamples {
		t.Errorf("%d samples are kept", n)
	}
}

// FuzzSamples: whatever a cell sends, what Kip answers is read by Prometheus'
// library, and is about the cell's own pod.
func FuzzSamples(f *testing.F) {
	const own = `namespace="shop",pod="web"`
	f.Add(`prober_probe_total{` + own + `,pod_uid="u",result="successful"} 117`)
	f.Add(`prober_probe_duration_seconds_bucket{` + own + `,le="+Inf"} 3` + "\n" + `prober_probe_duration_seconds_sum{` + own + `} 0.1`)
	f.Add(`prober_probe_total{a="\\\"\n",` + own + `} 1e3 17` + "\n# HELP x y\n")
	f.Fuzz(func(t *testing.T, in string) {
		s := parseSamples(in, probesFamilies, subject{"shop", "web", "u"})
		var out bytes.Buffer
		if err := writeText(&out, probesFamilies, []*samples{&s, &s}); err != nil {
			t.Fatal(err)
		}
		if strings.Contains(out.String(), "le=") {
			return // the library wants numbers in it, and whole histograms
		}
		got := parse(t, out.String())
		for name := range maps.Keys(got) {
			for _, m := range got[name].GetMetric() {
				if l := labels(m); l["namespace"] != "shop" || l["pod"] != "web" {
					t.Errorf("%q became %v", in, m)
				}
			}
		}
	})
}
