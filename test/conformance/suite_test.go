package conformance

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"
)

// With this in its environment the test program stands in for e2e.test: in a
// dry run it reports all specs of a file, else it runs those it is asked for.
// What becomes of one is a word of its text.
const standIn = "CONFORMANCE_TEST_SPECS"

func TestMain(m *testing.M) {
	if all := os.Getenv(standIn); all != "" {
		code, err := standInMain(all, os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			code = 2
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func standInMain(all string, args []string) (code int, err error) {
	flags := map[string]string{}
	for _, a := range args {
		name, value, _ := strings.Cut(a, "=")
		flags[name] = value
	}
	data, err := os.ReadFile(all)
	if err != nil {
		return 0, err
	}
	var specs [][2]string
	if err := json.Unmarshal(data, &specs); err != nil {
		return 0, err
	}
	focus, err := regexp.Compile(flags["--ginkgo.focus"])
	if err != nil {
		return 0, err
	}
	entry := func(node, text, state, message string) map[string]any {
		return map[string]any{"LeafNodeType": node, "LeafNodeText": text, "State": state,
			"Failure": map[string]string{"Message": message}, "RunTime": 2500 * time.Millisecond}
	}
	reports := []any{entry("ReportBeforeSuite", "[NodeConformance] no spec", "passed", "")}
	_, dry := flags["--ginkgo.dry-run"]
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, os.Interrupt)
	interrupted := false
	for _, s := range specs {
		state, message := "skipped", ""
		if !dry && !interrupted && focus.MatchString("The suite "+s[0]+" "+s[1]) {
			switch {
			case strings.Contains(s[1], "passes"):
				state = "passed"
			case strings.Contains(s[1], "fails"):
				state, message = "failed", "wanted 1"
			case strings.Contains(s[1], "hangs"):
				state, message = "timedout", "too long"
			case strings.Contains(s[1], "declines"):
				message = "wants two nodes"
			case strings.Contains(s[1], "dies"):
				return 3, nil
			case strings.Contains(s[1], "unset"):
				reports = append(reports, entry("SynchronizedBeforeSuite", "", "failed", "no node"))
			case strings.Contains(s[1], "waits"):
				fmt.Println("waiting")
				<-signals
				state, message, interrupted = "interrupted", "by a signal", true
			}
			if state != "skipped" && state != "passed" {
				code = 1
			}
		}
		e := entry("It", s[1], state, message)
		e["ContainerHierarchyTexts"] = []string{s[0]}
		reports = append(reports, e)
	}
	report, err := json.Marshal([]any{map[string]any{"SpecReports": reports}})
	if err != nil {
		return 0, err
	}
	return code, os.WriteFile(flags["--ginkgo.json-report"], report, 0o644)
}

// fakeSuite is a suite of specs of those names.
func fakeSuite(t *testing.T, names ...string) Suite {
	t.Helper()
	dir := t.TempDir()
	var specs [][2]string
	for _, name := range names {
		group, text, _ := strings.Cut(name, " ")
		specs = append(specs, [2]string{group, text})
	}
	all, err := json.Marshal(specs)
	if err != nil {
		t.Fatal(err)
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	s := Suite{Program: filepath.Join(dir, "e2e.test"), Dir: dir}
	script := fmt.Sprintf("#!/bin/sh\nexport %s='%s/all.json'\nexec '%s' \"$@\"\n", standIn, dir, self)
	for path, content := range map[string]string{filepath.Join(dir, "all.json"): string(all), s.Program: script} {
		if err := os.WriteFile(path, []byte(content), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

func TestSpecs(t *testing.T) {
	s := fakeSuite(t,
		"[sig-storage] volumes [NodeConformance]",
		"[sig-node] pods [Slow] [Conformance]",
		"[sig-node] alone [Serial] [NodeConformance]",
		"[sig-network] services [Conformance]",
		"[sig-node] something else",
	)
	got, err := s.Specs(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []Spec{
		{Name: "[sig-node] alone [Serial] [NodeConformance]", Serial: true},
		{Name: "[sig-node] pods [Slow] [Conformance]", Long: true},
		{Name: "[sig-storage] volumes [NodeConformance]"},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("what every node has to pass, and nothing else (-want +got):\n%s", diff)
	}
}

func TestRunBatch(t *testing.T) {
	cases := map[string]struct {
		reason string
		specs  []string
		want   []Result
		err    string
	}{
		"Several": {
			reason: "each has its result, and a name is a name, not a regular expression",
			specs:  []string{"a (passes", "b fails [x]"},
			want: []Result{
				{Name: "a (passes", State: Passed, Seconds: 2.5}, {Name: "b fails [x]", State: Failed, Message: "wanted 1", Seconds: 2.5},
			},
		},
		"TimedOut": {
			reason: "Ginkgo has several words for what is no success",
			specs:  []string{"a hangs"},
			want:   []Result{{Name: "a hangs", State: Failed, Message: "too long", Seconds: 2.5}},
		},
		"Skipped": {
			reason: "a spec that skips itself says why, those out of focus do not",
			specs:  []string{"a declines"},
			want:   []Result{{Name: "a declines", State: Skipped, Message: "wants two nodes", Seconds: 2.5}},
		},
		"SetUp": {
			reason: "a cluster that the suite does not accept is not a failure of each spec",
			specs:  []string{"a unset"}, err: "SynchronizedBeforeSuite: no node",
		},
		"Unknown": {
			reason: "a name that selects no spec is not a pass",
			specs:  []string{"a passes", "z passes"}, err: "of 2 specs 1 ran",
			want: []Result{{Name: "a passes", State: Passed, Seconds: 2.5}},
		},
		"Died": {reason: "a program that ended without a report has no results", specs: []string{"a dies"}, err: "exit status 3"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := fakeSuite(t, "a (passes", "b fails [x]", "b fails x", "a hangs", "a declines", "a unset", "a passes", "a dies")
			var specs []Spec
			for _, name := range tc.specs {
				specs = append(specs, Spec{Name: name})
			}
			got, err := s.RunBatch(t.Context(), specs)
			if (err == nil) != (tc.err == "") || err != nil && !strings.Contains(err.Error(), tc.err) {
				t.Errorf("%s: error %v, want %q", tc.reason, err, tc.err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.IgnoreFields(Result{}, "Began"), cmpopts.IgnoreUnexported(Result{})); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func TestRunAll(t *testing.T) {
	names := []string{"a passes [Serial]", "b passes", "c fails", "d passes [Slow]"}
	s := fakeSuite(t, names...)
	var specs []Spec
	for _, name := range names {
		specs = append(specs, newSpec(name))
	}
	var done []string
	note := func(spec Spec, _ Result) { done = append(done, spec.Name) }
	if err := s.RunAll(t.Context(), specs, 2, time.Time{}, note); err != nil {
		t.Fatal(err)
	}
	if len(done) != 4 || done[3] != names[0] {
		t.Errorf("ran in this order: %q; a serial spec comes when the others are done", done)
	}
	failing := specs[2]
	if r, ran, err := s.Result(failing); err != nil || !ran || r.State != Failed || r.Failures != 0 {
		t.Errorf("recorded: %+v, %v, %v", r, ran, err)
	}
	if err := s.RunAll(t.Context(), []Spec{failing}, 2, time.Time{}, note); err != nil {
		t.Fatal(err)
	}
	if r, _, err := s.Result(failing); err != nil || r.Failures != 1 {
		t.Errorf("a spec that ran again and had failed before: %+v, %v", r, err)
	}

	done = nil
	if err := s.RunAll(t.Context(), specs, 2, time.Now().Add(-time.Second), note); err != nil || len(done) > 0 {
		t.Errorf("after its time a run began %q, %v", done, err)
	}
}

// What was done before an interruption is kept, what was under way is not.
func TestRunAllInterrupted(t *testing.T) {
	s := fakeSuite(t, "one passes", "two waits", "three passes")
	specs := []Spec{{Name: "one passes"}, {Name: "two waits"}, {Name: "three passes"}}
	ctx, cancel := context.WithCancel(t.Context())
	// It says so only when it is in the middle of its second spec.
	waiting := make(chan struct{})
	go func() {
		<-waiting
		cancel()
	}()
	s.output = writerFunc(func(p []byte) (int, error) { close(waiting); return len(p), nil })
	results, err := s.RunBatch(ctx, specs)
	if !errors.Is(err, context.Canceled) {
		t.Errorf("error %v", err)
	}
	want := []Result{{Name: "one passes", State: Passed, Seconds: 2.5}}
	if diff := cmp.Diff(want, results, cmpopts.IgnoreFields(Result{}, "Began"), cmpopts.IgnoreUnexported(Result{})); diff != "" {
		t.Errorf("results (-want +got):\n%s", diff)
	}
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

func TestRunAllEnds(t *testing.T) {
	s := fakeSuite(t, "one dies", "two waits")
	specs := []Spec{{Name: "one dies"}, {Name: "two waits"}}
	err := s.RunAll(t.Context(), specs, 2, time.Time{}, func(spec Spec, _ Result) { t.Errorf("%s has a result", spec.Name) })
	if err == nil || !strings.Contains(err.Error(), "exit status 3") {
		t.Errorf("error %v; a program that cannot do its work ends the run, and what runs beside it", err)
	}
}

func TestExclude(t *testing.T) {
	specs := []Spec{{Name: "a"}, {Name: "b"}, {Name: "c"}}
	cases := map[string]struct {
		reason     string
		exclusions []Exclusion
		want       []string
		err        string
	}{
		"None":      {reason: "everything runs", want: []string{"a", "b", "c"}},
		"Some":      {reason: "what is named does not run", exclusions: []Exclusion{{"no network", []string{"b"}}}, want: []string{"a", "c"}},
		"Unknown":   {reason: "a spec that was renamed is not excluded silently, nor included", exclusions: []Exclusion{{"r", []string{"d"}}}, err: `no such spec: "d"`},
		"Twice":     {reason: "one spec, one reason", exclusions: []Exclusion{{"r", []string{"b"}}, {"s", []string{"b"}}}, err: `twice: "b"`},
		"Unfounded": {reason: "nothing is excluded without a reason", exclusions: []Exclusion{{"", []string{"b"}}}, err: "without a reason"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			left, err := exclude(specs, tc.exclusions)
			if tc.err != "" {
				if err == nil || !strings.Contains(err.Error(), tc.err) {
					t.Errorf("%s: error %v, want %q", tc.reason, err, tc.err)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			var names []string
			for _, s := range left {
				names = append(names, s.Name)
			}
			if !slices.Equal(names, tc.want) {
				t.Errorf("%s: %q, want %q", tc.reason, names, tc.want)
			}
		})
	}
}

// The exclusions that ship name specs of the program that ships.
func TestExclusions(t *testing.T) {
	program := filepath.Join(root(t), ".cache", "tools", "bin", "e2e.test")
	need(t, program)
	if _, err := (Suite{Program: program, Dir: t.TempDir()}).Plan(t.Context()); err != nil {
		t.Error(err)
	}
}

func TestReport(t *testing.T) {
	specs := []Spec{{Name: "a"}, {Name: "b"}, {Name: "c"}, {Name: "d"}}
	began := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	p := Plan{
		run: specs, exclusions: []Exclusion{{"The machine has no second node.", []string{"e"}}},
		results: map[string]Result{
			"a": {Name: "a", Kip: "v2", State: Passed, Began: began, Seconds: 61},
			"b": {Name: "b", Kip: "v2", State: Failed, Began: began, Message: "wanted 1\nmore"},
			"c": {Name: "c", Kip: "v1", State: Passed, Began: began.Add(24 * time.Hour), Seconds: 2, Failures: 1},
		},
	}
	if want, got := "5 specs: 2 passed, 1 failed, 0 skipped themselves, 1 excluded, 1 have not run", p.Summary(); got != want {
		t.Errorf("summary %q, want %q", got, want)
	}
	facts := facts{Kubernetes: "v1.36.3"}
	got, err := p.report(facts)
	if err != nil || !strings.Contains(string(got), "| have not run yet | 1 |") || !strings.Contains(string(got), "## Have not run yet\n\n- d\n\n") {
		t.Errorf("a run that is not complete must say so: %v\n%s", err, got)
	}
	p.results["d"] = Result{Name: "d", Kip: "v2", State: Skipped, Began: began, Message: "wants two nodes"}
	if got, err = p.report(facts); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"| date | 2026-01-02 to 2026-01-03 |", "| Kip | v1, v2 |", "| specs | 5 |", "| passed | **2** |", "| failed | **1** |", "| excluded | 1 |",
		"## Failed\n\n- b: wanted 1 more\n\n", "## Skipped by themselves\n\nA spec looks at the cluster and finds that it does not apply.\n\n- d: wants two nodes\n\n",
		"## Excluded\n\nThe machine has no second node.\n\n- e\n\n", "- c (1 failure)\n", "## Passed\n\n- a (61 s)\n- c (2 s)\n",
	} {
		if !strings.Contains(string(got), want) || strings.Contains(string(got), "not run yet") {
			t.Errorf("the report lacks %q:\n%s", want, got)
		}
	}
}
