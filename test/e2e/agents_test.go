package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// oldAgents are the commits whose agents stand for the two releases before this
// one. With a release, its commit takes the place of the older one.
var oldAgents = map[string]string{
	"N-1": "b294b2e36cbbd769addc2e6bc974e0c4d903f2cc",
	"N-2": "b5a16de708c7eabea04aa72a0775210b9c3503b4",
}

// Cells whose machine image has an older agent do what cells do, and a Kip that is
// started again goes on with them.
func TestOlderAgents(t *testing.T) {
	if shared.Cells != "" && shared.Cells != localcluster.CellsContainer {
		t.Skip("the agent of a machine image that is a disk is not exchanged here")
	}
	for name, commit := range oldAgents {
		t.Run(name, func(t *testing.T) {
			s := newSpace(t)
			agent := s.buildAgent(commit)
			config := s.configWithAgent(strings.ToLower(name), agent)
			s.kill(localcluster.Kip)
			t.Cleanup(func() { _ = shared.Start(context.Background(), localcluster.Kip) })
			kip := s.startKip("of today", "--provider-config="+config)
			kip.await("leader")

			pod := s.start(newPod("pod", shell("main", "echo said; "+forever)))
			running, err := os.ReadFile(fmt.Sprintf("/proc/%d/exe", machineOf(t, s.cellOf(pod)).init))
			if err != nil {
				t.Fatal(err)
			}
			if old, err := os.ReadFile(agent); err != nil || !bytes.Equal(old, running) {
				t.Fatalf("the cell does not run the older agent (%v): the test would show nothing", err)
			}
			works := func() {
				t.Helper()
				s.eventually("exec works", func(context.Context) error {
					if out, code := s.tryKubectl("", "exec", "pod", "--", "echo", "here"); code != 0 || out != "here\n" {
						return fmt.Errorf("code %d: %s", code, out)
					}
					return nil
				})
				if out := s.kubectl("logs", "pod"); out != "said\n" {
					t.Errorf("the log is %q", out)
				}
			}
			works()
			before := s.living()
			watcher := s.watchRegress()
			kip.end(syscall.SIGKILL)
			kip = s.startKip("again", "--provider-config="+config)
			kip.await("leader")
			works()
			watcher.stop()
			if after := s.living(); len(after) != 1 || len(before) != 1 {
				t.Errorf("the instances were %v and are %v, want the one", before, after)
			}

			// One that ends by itself, whose logs are copied by way of the agent.
			ending := newPod("ending", shell("main", "echo done"))
			ending.Spec.RestartPolicy = corev1.RestartPolicyNever
			s.create(ending)
			s.awaitPod("ending", "it has ended", hasEnded)
			s.eventually("its log is kept", func(context.Context) error {
				if out, code := s.tryKubectl("", "logs", "ending"); code != 0 || out != "done\n" {
					return fmt.Errorf("code %d: %s", code, out)
				}
				return nil
			})
			s.delete("pod")
			s.delete("ending")
			kip.end(syscall.SIGTERM)
		})
	}
}

// buildAgent builds kip-cell as it was at a commit.
func (s *space) buildAgent(commit string) string {
	s.Helper()
	git := func(args ...string) ([]byte, error) {
		cmd := exec.CommandContext(s.Context(), "git", args...)
		cmd.Dir = shared.Root
		return cmd.Output()
	}
	if _, err := git("cat-file", "-e", commit+"^{commit}"); err != nil {
		s.Skipf("commit %s is not here (a shallow clone?): its agent cannot be built", commit)
	}
	dir := s.TempDir()
	archive, err := git("archive", commit, "go.mod", "go.sum", "api", "cmd/kip-cell", "internal")
	if err != nil {
		s.Fatalf("git archive %s: %v", commit, err)
	}
	unpack := exec.CommandContext(s.Context(), "tar", "-x", "-C", dir)
	unpack.Stdin = bytes.NewReader(archive)
	if out, err := unpack.CombinedOutput(); err != nil {
		s.Fatalf("unpacking %s: %v\n%s", commit, err, out)
	}
	program := filepath.Join(dir, "old-kip-cell")
	build := exec.CommandContext(s.Context(), "go", "build", "-buildvcs=false", "-ldflags=-s -w", "-o", program, "./cmd/kip-cell")
	build.Dir, build.Env = dir, append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		s.Fatalf("building the agent of %s: %v\n%s", commit, err, out)
	}
	return program
}

// configWithAgent makes a machine image with this agent and a provider.yaml with
// that image.
func (s *space) configWithAgent(name, agent string) string {
	s.Helper()
	images := filepath.Join(shared.Dir, "images")
	cells, err := filepath.Glob(filepath.Join(images, "kip-cell-*"))
	if err != nil || len(cells) == 0 {
		s.Fatalf("there is no image of cells in %s (%v)", images, err)
	}
	slices.SortFunc(cells, func(a, b string) int { return modified(s, b) - modified(s, a) })
	old := "kip-old-" + name + "-1"
	made := filepath.Join(images, old)
	partial := filepath.Join(images, old+".partial")
	program := filepath.Join(partial, "rootfs/opt/kip/bin/kip-cell")
	for _, args := range [][]string{
		{"cp", "-a", cells[0], partial},
		{"sed", "-i", "s/" + filepath.Base(cells[0]) + "/" + old + "/", filepath.Join(partial, "image.json")},
		{"cp", "--remove-destination", agent, program},
		{"mv", partial, made},
	} {
		if out, err := exec.CommandContext(s.Context(), args[0], args[1:]...).CombinedOutput(); err != nil {
			s.Fatalf("%v: %v\n%s", args, err, out)
		}
	}
	s.Cleanup(func() { _ = os.RemoveAll(made) })
	config, err := os.ReadFile(filepath.Join(shared.Dir, "provider.yaml"))
	if err != nil {
		s.Fatal(err)
	}
	changed := bytes.Replace(config, []byte("name=kip-cell-"), []byte("name=kip-old-"+name+"-"), 1)
	if bytes.Equal(config, changed) {
		s.Fatalf("provider.yaml does not name the image of cells:\n%s", config)
	}
	path := filepath.Join(s.TempDir(), "provider.yaml")
	if err := os.WriteFile(path, changed, 0o600); err != nil {
		s.Fatal(err)
	}
	return path
}

// modified is when a file was changed last, in seconds.
func modified(s *space, path string) int {
	info, err := os.Stat(path)
	if err != nil {
		s.Fatal(err)
	}
	return int(info.ModTime().Unix())
}
