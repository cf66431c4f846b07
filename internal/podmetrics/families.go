package podmetrics

import (
	_ "embed"
	"fmt"
	"strings"
)

// The families that cells may report, as comments of the text format. Those of
// cAdvisor are all that its version in the kubelet (v0.56.2) can report of a
// container; the others are the kubelet's own.
var (
	//go:embed cadvisor.prom
	cadvisorText string
	//go:embed probes.prom
	probesText string
	//go:embed resource.prom
	resourceText string

	cadvisorFamilies = mustParseFamilies(cadvisorText)
	probesFamilies   = mustParseFamilies(probesText)
	resourceFamilies = mustParseFamilies(resourceText)
)

// families are those of one endpoint. What a cell reports beside them is
// dropped, and no cell has a say in their types and help texts.
type families struct {
	headers []string       // HELP and TYPE, by family, in the order of names
	samples map[string]int // the family by the name of a sample
}

// histogramSuffixes are what names of a histogram's samples end in.
var histogramSuffixes = []string{"_bucket", "_sum", "_count"}

func mustParseFamilies(text string) *families {
	f := &families{samples: map[string]int{}}
	for header := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "# HELP ") {
		if header == "" {
			continue
		}
		name, _, _ := strings.Cut(header, " ")
		_, kind, ok := strings.Cut(header, "\n# TYPE "+name+" ")
		if !ok {
			panic(fmt.Sprintf("podmetrics: no type in the description of %s", name))
		}
		names := []string{name}
		if strings.TrimSuffix(kind, "\n") == "histogram" {
			names = nil
			for _, suffix := range histogramSuffixes {
				names = append(names, name+suffix)
			}
		}
		for _, n := range names {
			f.samples[n] = len(f.headers)
		}
		f.headers = append(f.headers, "# HELP "+strings.TrimSuffix(header, "\n")+"\n")
	}
	return f
}
