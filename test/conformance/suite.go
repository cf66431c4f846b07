package conformance

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"time"
)

// A Suite is Kubernetes' test program, and the cluster that it tests.
type Suite struct {
	Program    string // e2e.test
	Kubeconfig string // the administrator's
	Kip        string // which Kip it is, for the record
	// Dir gets a folder for each spec, with what the spec wrote.
	Dir string

	output io.Writer // gets what the program writes; may be nil
}

// A Spec is one test.
type Spec struct {
	// Name is its text with that of the groups around it, as reports show it.
	Name string
	// Serial: nothing else may run at the same time.
	Serial bool
	// Long: it waits for minutes, often for something that must not happen.
	Long bool
}

// newSpec is the spec of that name.
func newSpec(name string) Spec {
	return Spec{Name: name, Serial: strings.Contains(name, "[Serial]"), Long: long.MatchString(name)}
}

// long are the groups of long specs, and those marked so; there are a few short ones among them.
var long = regexp.MustCompile(`\[Slow\]|Probing (container|restartable)`)

// longest are those of the long ones that take twenty minutes and more. They begin first: nothing else takes a run so long.
var longest = regexp.MustCompile(`back-off.*\[Slow\]`)

// report is the part of Ginkgo's report that is of interest here.
type report struct {
	SpecReports []struct {
		ContainerHierarchyTexts []string
		LeafNodeType            string
		LeafNodeText            string
		State                   string
		StartTime               time.Time
		RunTime                 time.Duration
		Failure                 struct{ Message string }

		CapturedGinkgoWriterOutput string
	}
}

// readReport reads what Ginkgo wrote for its one suite.
func readReport(path string) (report, error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return report{}, err
	}
	var suites []report
	if err := json.Unmarshal(data, &suites); err != nil {
		return report{}, fmt.Errorf("%s: %w", path, err)
	}
	if len(suites) != 1 {
		return report{}, fmt.Errorf("%s is about %d suites", path, len(suites))
	}
	return suites[0], nil
}

// selected tells whether a spec is one that every node has to pass: those
// marked NodeConformance, and the node's part of what every cluster has to pass.
func selected(name string) bool {
	return strings.Contains(name, "[NodeConformance]") ||
		strings.Contains(name, "[sig-node]") && strings.Contains(name, "[Conformance]")
}

// Specs returns the specs that a node has to pass, sorted by name.
func (s Suite) Specs(ctx context.Context) ([]Spec, error) {
	path := filepath.Join(s.Dir, "specs.json")
	if err := os.MkdirAll(s.Dir, 0o755); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, s.Program, "--ginkgo.dry-run", "--ginkgo.succinct", "--ginkgo.no-color", "--ginkgo.json-report="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		return nil, fmt.Errorf("asking %s for its specs: %w\n%s", s.Program, err, lastLines(out, 10))
	}
	all, err := readReport(path)
	if err != nil {
		return nil, fmt.Errorf("asking %s for its specs: %w", s.Program, err)
	}
	var specs []Spec
	for _, r := range all.SpecReports {
		name := fullName(r.ContainerHierarchyTexts, r.LeafNodeText)
		if r.LeafNodeType == "It" && selected(name) {
			specs = append(specs, newSpec(name))
		}
	}
	if len(specs) == 0 {
		return nil, fmt.Errorf("%s has no spec that a node has to pass", s.Program)
	}
	slices.SortFunc(specs, func(a, b Spec) int { return strings.Compare(a.Name, b.Name) })
	return specs, nil
}

// State is what became of a spec.
type State string

// States of a spec that ran.
const (
	Passed State = "passed"
	Failed State = "failed"
	// Skipped: the spec itself found that it does not apply here.
	Skipped State = "skipped"
)

// A Result is what became of one spec at its last run.
type Result struct {
	Name    string    `json:"name"`
	State   State     `json:"state"`
	Message string    `json:"message,omitempty"` // why it failed or was skipped
	Began   time.Time `json:"began"`
	Seconds float64   `json:"seconds"`
	Kip     string    `json:"kip"`
	// Failures counts earlier runs of the spec that failed.
	Failures int `json:"failures,omitempty"`

	log string // what it wrote
}

// batchTimeout ends a batch that hangs. The longest spec takes 20 minutes.
const batchTimeout = 90 * time.Minute

// RunBatch runs some specs, one after the other, in one process: to start one
// costs as much as a short spec. An error means that not all have a result: ctx
// ended, or the program could not do its work.
func (s Suite) RunBatch(ctx context.Context, specs []Spec) ([]Result, error) {
	dir, err := os.MkdirTemp(s.Dir, "batch-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	var names []string
	for _, spec := range specs {
		names = append(names, regexp.QuoteMeta(spec.Name))
	}
	path := filepath.Join(dir, "report.json")
	cmd := exec.CommandContext(ctx, s.Program,
		"--kubeconfig="+s.Kubeconfig, "--provider=skeleton", "--disable-log-dump",
		"--ginkgo.focus= ("+strings.Join(names, "|")+")$", "--ginkgo.no-color", "--ginkgo.v",
		"--ginkgo.timeout="+batchTimeout.String(), "--ginkgo.json-report="+path,
	)
	var output bytes.Buffer
	cmd.Stdout = io.Writer(&output)
	if s.output != nil {
		cmd.Stdout = io.MultiWriter(&output, s.output)
	}
	cmd.Stderr = cmd.Stdout
	// Interrupted, it removes its namespaces and reports what it has done. A
	// terminal's interrupt would reach it too, and twice means at once.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return cmd.Process.Signal(os.Interrupt) }
	cmd.WaitDelay = time.Minute
	runErr := cmd.Run()
	ran, err := readReport(path)
	if err != nil {
		return nil, fmt.Errorf("running %d specs: %w", len(specs), cmp.Or(ctx.Err(), errors.Join(runErr, err, errors.New(lastLines(output.Bytes(), 20)))))
	}
	var results []Result
	for _, r := range ran.SpecReports {
		result := Result{
			Name: fullName(r.ContainerHierarchyTexts, r.LeafNodeText), Message: r.Failure.Message,
			Began: r.StartTime.UTC().Truncate(time.Second), Seconds: r.RunTime.Seconds(), log: r.CapturedGinkgoWriterOutput,
		}
		switch r.State {
		case "passed":
			result.State = Passed
		case "skipped":
			if r.Failure.Message == "" {
				continue // out of focus, or its turn did not come
			}
			result.State = Skipped
		case "interrupted", "aborted":
			continue
		default:
			result.State = Failed
		}
		if r.LeafNodeType == "It" {
			results = append(results, result)
		} else if result.State == Failed && ctx.Err() == nil {
			return results, fmt.Errorf("%s: %s", r.LeafNodeType, r.Failure.Message)
		}
	}
	if ctx.Err() != nil {
		return results, ctx.Err()
	}
	if len(results) != len(specs) {
		return results, fmt.Errorf("of %d specs %d ran:\n%s", len(specs), len(results), lastLines(output.Bytes(), 20))
	}
	return results, nil
}

// fullName is the name of a spec in a report.
func fullName(groups []string, text string) string {
	return strings.TrimSpace(strings.Join(append(slices.Clone(groups), text), " "))
}

// lastLines is the end of what a program said.
func lastLines(output []byte, n int) string {
	lines := bytes.Split(bytes.TrimSpace(output), []byte("\n"))
	return string(bytes.Join(lines[max(len(lines)-n, 0):], []byte("\n")))
}
