package conformance

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"text/template"
	"time"

	"golang.org/x/sys/unix"
)

// A Plan is every spec that a node has to pass, with what is known of it.
type Plan struct {
	run        []Spec
	exclusions []Exclusion
	results    map[string]Result
}

// Plan returns the specs with their recorded results.
func (s Suite) Plan(ctx context.Context) (Plan, error) {
	specs, err := s.Specs(ctx)
	if err != nil {
		return Plan{}, err
	}
	p := Plan{results: map[string]Result{}}
	if p.exclusions, err = Exclusions(); err != nil {
		return Plan{}, err
	}
	if p.run, err = exclude(specs, p.exclusions); err != nil {
		return Plan{}, err
	}
	for _, spec := range p.run {
		r, ran, err := s.Result(spec)
		if err != nil {
			return Plan{}, err
		}
		if ran {
			p.results[spec.Name] = r
		}
	}
	return p, nil
}

func (p Plan) filter(want func(Spec, Result, bool) bool) []Spec {
	return slices.DeleteFunc(slices.Clone(p.run), func(s Spec) bool {
		r, ran := p.results[s.Name]
		return !want(s, r, ran)
	})
}

// Open are the specs that have no result.
func (p Plan) Open() []Spec {
	return p.filter(func(_ Spec, _ Result, ran bool) bool { return !ran })
}

// Failed are the specs that failed when they ran last.
func (p Plan) Failed() []Spec { return p.in(Failed) }

// Matching are the specs whose name matches.
func (p Plan) Matching(name *regexp.Regexp) []Spec {
	return p.filter(func(s Spec, _ Result, _ bool) bool { return name.MatchString(s.Name) })
}

func (p Plan) in(state State) []Spec {
	return p.filter(func(_ Spec, r Result, ran bool) bool { return ran && r.State == state })
}

func (p Plan) excluded() int {
	n := 0
	for _, e := range p.exclusions {
		n += len(e.Specs)
	}
	return n
}

// Summary is the outcome in one line.
func (p Plan) Summary() string {
	return fmt.Sprintf("%d specs: %d passed, %d failed, %d skipped themselves, %d excluded, %d have not run",
		len(p.run)+p.excluded(), len(p.in(Passed)), len(p.in(Failed)), len(p.in(Skipped)), p.excluded(), len(p.Open()))
}

// Where says why a spec failed and where to read on.
func (s Suite) Where(spec Spec, r Result) string {
	return fmt.Sprintf("%s; see %s", oneLine(r.Message), filepath.Join(s.folder(spec), "log"))
}

// oneLine is the beginning of a message, which may be many lines.
func oneLine(message string) string {
	return fmt.Sprintf("%.300s", strings.Join(strings.Fields(message), " "))
}

var page = template.Must(template.New("conformance.md").Parse(`# Conformance

Written by ` + "`make conformance`" + `; [development](development.md#conformance) says how, and how to run one of the tests.

Kubernetes' own tests of a node, run through the virtual node of a local cluster: every spec marked ` + "`[NodeConformance]`" + ` and every
` + "`[Conformance]`" + ` spec of ` + "`[sig-node]`" + `. They are those of the program e2e.test, built unchanged from Kubernetes' module. The
virtual node is the cluster's only node and has no taint; each pod of a test runs on a cell of its own.

| | |
| --- | --- |
| date | {{.Date}} |
| Kip | {{range $i, $k := .Kips}}{{if $i}}, {{end}}{{$k}}{{end}} |
| Kubernetes | {{.Kubernetes}} |
| containerd, runc | {{.Containerd}}, {{.Runc}} |
| machine | {{.Machine}} |
| specs | {{.Total}} |
| passed | **{{.Passed}}** |
| failed | **{{.FailedCount}}** |
| skipped by themselves | {{len .Skipped}} |
| excluded | {{.Excluded}} |
{{- with .Open}}
| have not run yet | {{len .}} |
{{- end}}
| time | {{.Minutes}} minutes, the specs' own times added up |
{{with .Failed}}
## Failed
{{range .}}
- {{.Name}}: {{.Message}}
{{- end}}
{{end}}
{{- with .Open}}
## Have not run yet
{{range .}}
- {{.Name}}
{{- end}}
{{end}}
{{- with .Skipped}}
## Skipped by themselves

A spec looks at the cluster and finds that it does not apply.
{{range .}}
- {{.Name}}: {{.Message}}
{{- end}}
{{end}}
{{- with .Exclusions}}
## Excluded
{{range .}}
{{.Reason}}
{{range .Specs}}
- {{.}}
{{- end}}
{{end}}
{{- end}}
{{- with .Repeated}}
## Passed when run again

These failed before they passed, on the same Kip or an earlier one.
{{range .}}
- {{.Name}} ({{.Failures}} {{if eq .Failures 1}}failure{{else}}failures{{end}})
{{- end}}
{{end}}
## Passed
{{range .All}}
- {{.Name}} ({{printf "%.0f" .Seconds}} s)
{{- end}}
`))

// facts are what a result may depend on.
type facts struct{ Kubernetes, Containerd, Runc, Machine string }

// Report is the page about a run; root is Kip's source tree.
func (p Plan) Report(ctx context.Context, root string) ([]byte, error) {
	f := facts{Machine: machine()}
	tool := func(name string) string { return filepath.Join(root, ".cache", "tools", "bin", name) }
	for field, command := range map[*string][]string{
		&f.Kubernetes: {tool("e2e.test"), "--version"},
		&f.Containerd: {tool("containerd"), "--version"},
		&f.Runc:       {tool("runc"), "--version"},
	} {
		out, err := exec.CommandContext(ctx, command[0], command[1:]...).Output()
		if err != nil {
			return nil, fmt.Errorf("asking for a version: %s: %w", strings.Join(command, " "), err)
		}
		line, _, _ := strings.Cut(string(out), "\n")
		*field = cmp.Or(versionIn(strings.Fields(line)), line)
	}
	return p.report(f)
}

func (p Plan) report(f facts) ([]byte, error) {
	data := struct {
		facts
		Date                                 string
		Kips                                 []string
		Total, Passed, FailedCount, Excluded int
		Minutes                              int
		Failed, Skipped, Repeated, All       []Result
		Exclusions                           []Exclusion
		Open                                 []Spec
	}{
		facts: f, Total: len(p.run) + p.excluded(), Excluded: p.excluded(), Exclusions: p.exclusions,
		Open: p.Open(),
	}
	var first, last time.Time
	seconds := 0.0
	for _, spec := range p.run {
		r, ran := p.results[spec.Name]
		if !ran {
			continue
		}
		r.Message = oneLine(r.Message)
		switch r.State {
		case Passed:
			data.All = append(data.All, r)
			if r.Failures > 0 {
				data.Repeated = append(data.Repeated, r)
			}
		case Failed:
			data.Failed = append(data.Failed, r)
		case Skipped:
			data.Skipped = append(data.Skipped, r)
		}
		if !slices.Contains(data.Kips, r.Kip) {
			data.Kips = append(data.Kips, r.Kip)
		}
		seconds += r.Seconds
		if first.IsZero() || r.Began.Before(first) {
			first = r.Began
		}
		if r.Began.After(last) {
			last = r.Began
		}
	}
	slices.Sort(data.Kips)
	data.Passed, data.FailedCount = len(data.All), len(data.Failed)
	data.Minutes = int(seconds/60 + 0.5)
	data.Date = first.Format(time.DateOnly)
	if end := last.Format(time.DateOnly); end != data.Date {
		data.Date += " to " + end
	}
	var b bytes.Buffer
	err := page.Execute(&b, data)
	return b.Bytes(), err
}

// versionIn is the word that looks like one.
func versionIn(words []string) string {
	i := slices.IndexFunc(words, func(w string) bool { return strings.Contains(w, ".") && !strings.Contains(w, "/") })
	if i < 0 {
		return ""
	}
	return words[i]
}

// machine says what the result may depend on.
func machine() string {
	var u unix.Utsname
	kernel := "unknown"
	if unix.Uname(&u) == nil {
		// What follows the first hyphen is its builder's business.
		kernel, _, _ = strings.Cut(unix.ByteSliceToString(u.Release[:]), "-")
	}
	cgroup := "v1"
	if _, err := os.Stat("/sys/fs/cgroup/cgroup.controllers"); err == nil {
		cgroup = "v2"
	}
	return fmt.Sprintf("%d CPUs, %s, Linux %s, cgroup %s", runtime.NumCPU(), runtime.GOARCH, kernel, cgroup)
}
