package simulation

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"
)

// mutation is a bug that somebody could write.
type mutation struct {
	// reason says what Kip has the line for.
	reason   string
	file     string // below internal
	old, new string
}

var mutations = map[string]mutation{
	"intent not written": {
		reason: "the launch must be on record before the cloud is asked", file: "cell/lifecycle/launch.go",
		old: "	if err := r.write(ctx, s); err != nil {\n		return err\n	}\n	s.mem.token = s.token()",
		new: "	s.mem.token = s.token()",
	},
	"another token for each call": {
		reason: "a launch that is repeated is the same one", file: "cell/lifecycle/scope.go",
		old: `return fmt.Sprintf("%s-%d", uid, number)`,
		new: `return fmt.Sprintf("%s-%d", uid, time.Now().UnixNano())`,
	},
	"lost answers are refusals": {
		reason: "after a lost answer an instance may exist", file: "cell/lifecycle/launch.go",
		old: "	if !kind.Definite() {\n		s.mem.ambiguous = true\n	}",
		new: "",
	},
	"what Kip's predecessor did is known": {
		reason: "a Kip that died may have launched for the intent that is on record", file: "cell/lifecycle/launch.go",
		old: "s.mem.token, s.mem.ambiguous = s.token(), true",
		new: "s.mem.token, s.mem.ambiguous = s.token(), false",
	},
	"one look proves": {
		reason: "the cloud shows a new instance late", file: "cell/lifecycle/observe.go",
		old: "		s.mem.absentLook, s.mem.absentSince = seen.number, seen.began\n		return false",
		new: "		return true",
	},
	"the Cell goes before its instance": {
		reason: "nobody looks for an instance whose Cell is gone", file: "cell/lifecycle/terminate.go",
		old: "	s.mem.failures = 0\n	if rest == 0 && s.cell.Status.Enrolment",
		new: "	rest = 0\n	if rest == 0 && s.cell.Status.Enrolment",
	},
	"a failed launch is given up": {
		reason: "what waits is looked at again", file: "cell/lifecycle/reaction.go",
		old: "	return r.delay(s, reactionTo(err).backoff)",
		new: "	return reconcile.Result{}",
	},
	"a stopped instance is as good as running": {
		reason: "nothing runs in it, and it comes back as another", file: "cell/lifecycle/follow.go",
		old: "		if !i.State.Alive() && !mayBeStopped(s.cell, i.State) {",
		new: "		if i.State == \"terminated\" {",
	},
	"the use is not counted": {
		reason: "the use of a cell is counted before its Cell goes", file: "cell/lifecycle/terminate.go",
		old: "rest == 0 && s.cell.Status.Enrolment != nil && r.cfg.Ended != nil",
		new: "false && r.cfg.Ended != nil",
	},
	"routes stay": {
		reason: "a route to what is gone keeps others from the network", file: "cell/lifecycle/route.go",
		old: "	if !s.wantsRoutes() || r.cfg.Routes == nil ||",
		new: "	if true || r.cfg.Routes == nil ||",
	},
	"no boot timeout": {
		reason: "an instance that does not boot is replaced", file: "cell/lifecycle/follow.go",
		old: "	case left <= 0:\n		return r.neverUp(ctx, s)",
		new: "	case left <= 0:\n		return reconcile.Result{RequeueAfter: time.Minute}, nil",
	},
	"the next cell at once": {
		reason: "the pod may still run in the cell that ends", file: "provider/reconcile.go",
		old: "		default:\n			own = append(own, c)",
		new: "		case c.DeletionTimestamp != nil:\n		default:\n			own = append(own, c)",
	},
	"the pod goes at once": {
		reason: "a deleted pod stays until its kubelet has ended it", file: "provider/end.go",
		old: "	case p.known(pod.UID).ended:",
		new: "	case p.known(pod.UID).ended || cell.Status.Enrolment != nil:",
	},
	"the pod goes before its instance": {
		reason: "the successor of its name must not run beside it", file: "provider/end.go",
		old: "	case cell.DeletionTimestamp != nil:\n		// The pod stays until its instance is proven gone: its successor, of the\n		// same name in a StatefulSet, must not run beside it.\n		return reconcile.Result{}, nil",
		new: "	case cell.DeletionTimestamp != nil:\n		return reconcile.Result{}, p.deletePod(ctx, pod)",
	},
	"two cells see the pod": {
		reason: "what is made ahead waits until the pod has ended in the other cell", file: "provider/gateway.go",
		old: "	if wait, err := p.waits(cell); wait || err != nil {",
		new: "	if wait, err := p.waits(cell); false && wait || err != nil {",
	},
	"Never is Always": {
		reason: "a pod of policy Never that started runs no second time", file: "provider/reconcile.go",
		old: "	return pod.Spec.RestartPolicy != corev1.RestartPolicyNever || !started(status)",
		new: "	return true",
	},
	"a pod that did not start is lost": {
		reason: "whatever its policy, a pod that never ran is launched again", file: "provider/reconcile.go",
		old: "	return pod.Spec.RestartPolicy != corev1.RestartPolicyNever || !started(status)",
		new: "	return pod.Spec.RestartPolicy == corev1.RestartPolicyAlways",
	},
	"no grace period": {
		reason: "a kubelet is given up only when the grace period is over", file: "provider/end.go",
		old: "	return end.Add(killSlack)",
		new: "	return end.Add(-time.Hour)",
	},
	"deleted while it enrols": {
		reason: "a pod that was not started is removed only if that is still so", file: "provider/end.go",
		old: "	cell, err := p.liveCell(ctx, cached)\n	switch {",
		new: "	if cached != nil {\n		return p.deleteCell(ctx, cached, why, false)\n	}\n	cell, err := p.liveCell(ctx, cached)\n	switch {",
	},
	"a certificate before the record": {
		reason: "who has a certificate has a pod", file: "cell/connection/enrol.go",
		old: "	if err := s.record(ctx, keySHA256); err != nil {\n		return nil, err\n	}\n	s.setKey(keySHA256)",
		new: "	defer s.record(ctx, keySHA256)\n	s.setKey(keySHA256)",
	},
	"garbage is what is not": {
		reason: "only what no Cell accounts for is ended", file: "cell/garbagecollection/collector.go",
		old: `	case cell.Status.InstanceID != "" && cell.Status.InstanceID != i.ID:`,
		new: `	case cell.Status.InstanceID == i.ID:`,
	},
	"impatient": {
		reason: "a cell is given up when it was silent for long enough", file: "cell/health/judge.go",
		old: "	case lasts < timeout, now.Sub(v.from) < timeout && !impaired:",
		new: "	case lasts < timeout/20 && !impaired:",
	},
}

// internal is the directory above this one.
func internal(t *testing.T) string {
	t.Helper()
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Dir(here)
}

// mutated is the file with the bug in it.
func (m mutation) mutated(t *testing.T) (path, text string) {
	t.Helper()
	path = filepath.Join(internal(t), m.file)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if n := strings.Count(string(data), m.old); n != 1 {
		t.Fatalf("%s: what is to be changed is there %d times; change the mutation with the code", m.file, n)
	}
	return path, strings.Replace(string(data), m.old, m.new, 1)
}

// TestMutationsApply: the bugs are planted in the code as it is.
func TestMutationsApply(t *testing.T) {
	for name, m := range mutations {
		t.Run(name, func(t *testing.T) { m.mutated(t) })
	}
}

// TestMutations plants each bug and looks whether the simulation finds it. It
// builds a program for each.
func TestMutations(t *testing.T) {
	seeds := os.Getenv("KIP_SIMULATION_MUTATIONS")
	if seeds == "" {
		t.Skip("make simulate-mutations runs it: KIP_SIMULATION_MUTATIONS says how many seeds there are to find each bug")
	}
	only := regexp.MustCompile(os.Getenv("KIP_SIMULATION_MUTATION"))
	for name, m := range mutations {
		if !only.MatchString(name) {
			continue
		}
		t.Run(name, func(t *testing.T) {
			began := time.Now()
			found, err := m.run(t, seeds)
			if err != nil {
				t.Fatal(err)
			}
			if found == "" {
				t.Fatalf("not found: %s", m.reason)
			}
			fmt.Printf("%-40s %s (%s)\n", name, found, time.Since(began).Round(time.Second))
		})
	}
}

var foundLine = regexp.MustCompile(`seed \d+: .*`)

// run builds the simulation with the bug and runs it until a seed finds it; none
// does where the first result is empty.
func (m mutation) run(t *testing.T, seeds string) (string, error) {
	t.Helper()
	dir := t.TempDir()
	path, text := m.mutated(t)
	bug, overlay, program := filepath.Join(dir, "bug.go"), filepath.Join(dir, "overlay.json"), filepath.Join(dir, "simulation.test")
	data, err := json.Marshal(map[string]any{"Replace": map[string]string{path: bug}})
	if err != nil {
		return "", err
	}
	for file, content := range map[string][]byte{bug: []byte(text), overlay: data} {
		if err := os.WriteFile(file, content, 0o600); err != nil {
			return "", err
		}
	}
	if out, err := exec.CommandContext(t.Context(), "go", "test", "-c", "-overlay", overlay, "-o", program, ".").CombinedOutput(); err != nil {
		return "", fmt.Errorf("building: %w\n%s", err, out)
	}
	run := exec.CommandContext(t.Context(), program, "-test.run", "TestSimulation$", "-test.failfast", "-test.timeout", "30m")
	run.Env = append(os.Environ(), "KIP_SIMULATION_SEEDS="+seeds, "KIP_SIMULATION_FIRST=yes")
	out, err := run.CombinedOutput()
	if err == nil {
		return "", nil
	}
	if exit := (*exec.ExitError)(nil); !errors.As(err, &exit) {
		return "", err
	}
	line := foundLine.FindString(string(out))
	if line == "" {
		return "", fmt.Errorf("it ends without a word on a seed: %w\n%s", err, out)
	}
	return line, nil
}
