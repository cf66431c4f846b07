package status

import (
	"os"
	"path/filepath"
	"strconv"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestTimelineKeepsTheFirstTime(t *testing.T) {
	line := NewTimeline(time.Now().Add(-time.Second))
	line.Reach(StepUserData)
	line.Reach(StepEnrolled)
	first := line.Steps()
	line.Reach(StepUserData)
	if diff := cmp.Diff(first, line.Steps()); diff != "" {
		t.Errorf("a step reached again moved (-first +now)\n%s", diff)
	}
	if len(first) != 2 || first[0].Name != StepUserData || first[0].Milliseconds < 1000 {
		t.Errorf("steps %+v", first)
	}
}

func TestReadMemory(t *testing.T) {
	proc := t.TempDir()
	for pid, comm := range map[int]string{os.Getpid(): "kip-cell", 20: "kubelet", 30: "containerd-shim", 40: "nginx"} {
		dir := filepath.Join(proc, strconv.Itoa(pid))
		if err := os.Mkdir(dir, 0o755); err != nil {
			t.Fatal(err)
		}
		_ = os.WriteFile(filepath.Join(dir, "comm"), []byte(comm+"\n"), 0o644)
		_ = os.WriteFile(filepath.Join(dir, "status"), []byte("Name:\tx\nVmRSS:\t  7000 kB\nRssAnon:\t    5000 kB\n"), 0o644)
	}
	want := []Memory{
		{Name: "kip-cell", PID: os.Getpid(), AnonymousKiB: 5000, ResidentKiB: 7000},
		{Name: "kubelet", PID: 20, AnonymousKiB: 5000, ResidentKiB: 7000},
		{Name: "containerd-shim", PID: 30, AnonymousKiB: 5000, ResidentKiB: 7000},
	}
	// A service that ended meanwhile (PID 99) is just not listed.
	if diff := cmp.Diff(want, ReadMemory(proc, map[int]string{20: "kubelet", 99: "containerd"})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}
