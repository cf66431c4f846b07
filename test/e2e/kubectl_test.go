package e2e

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha256"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// What people do with kubectl, by the real one, on one pod.
func TestKubectl(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	talker := shell("talker", `for i in 1 2 3 4 5; do echo line $i; done; `+forever)
	// Ends when told to, and then its log is the previous one.
	mortal := shell("mortal", `echo life; until [ -e /tmp/end ]; do sleep 0.2; done; echo death; exit 3`)
	attached := shell("attached", `while read line; do echo "heard $line"; done`)
	attached.Stdin = true
	pod := newPod("pod", talker, mortal, attached, program("server", "serve"))
	s.start(pod)

	// Side by side, but for what ends a container.
	t.Run("Commands", func(t *testing.T) {
		for name, check := range map[string]func(*space){
			"Logs": logs, "Exec": execs, "Terminal": terminal, "Attach": attach, "PortForward": portForward, "Copy": copies,
		} {
			t.Run(name, func(t *testing.T) {
				t.Parallel()
				check(&space{t, s.name})
			})
		}
	})
	t.Run("PreviousLogs", func(t *testing.T) {
		s := &space{t, s.name}
		s.kubectl("exec", "pod", "-c", "mortal", "--", "touch", "/tmp/end")
		s.awaitPod("pod", "the container restarted", func(pod *corev1.Pod) error {
			for _, c := range pod.Status.ContainerStatuses {
				if c.Name == "mortal" && c.RestartCount == 1 && c.State.Running != nil {
					if ended := c.LastTerminationState.Terminated; ended == nil || ended.ExitCode != 3 {
						t.Errorf("the status tells of its end as %+v, want exit code 3", ended)
					}
					return nil
				}
			}
			return fmt.Errorf("it did not: %s", conditions(pod))
		})
		if got := s.kubectl("logs", "pod", "-c", "mortal", "--previous"); got != "life\ndeath\n" {
			t.Errorf("the previous log is %q", got)
		}
		if got := s.kubectl("logs", "pod", "-c", "mortal"); got != "life\n" {
			t.Errorf("the current log is %q", got)
		}
	})
}

func logs(s *space) {
	const all = "line 1\nline 2\nline 3\nline 4\nline 5\n"
	for what, c := range map[string]struct {
		args []string
		want string
	}{
		"the whole log":     {[]string{"-c", "talker"}, all},
		"--tail":            {[]string{"-c", "talker", "--tail=2"}, "line 4\nline 5\n"},
		"--since, recent":   {[]string{"-c", "talker", "--since=1h"}, all},
		"--limit-bytes":     {[]string{"-c", "talker", "--limit-bytes=8"}, "line 1\nl"},
		"of another, by -c": {[]string{"-c", "mortal"}, "life\n"},
	} {
		if got := s.kubectl(append([]string{"logs", "pod"}, c.args...)...); got != c.want {
			s.Errorf("%s: %q, want %q", what, got, c.want)
		}
	}
	// Another test makes one of the others talk.
	ofAll := s.kubectl("logs", "-l", "app=pod", "--all-containers", "--prefix", "--tail=1")
	for _, line := range []string{"[pod/pod/talker] line 5\n", "[pod/pod/mortal] life\n"} {
		if !strings.Contains(ofAll, line) {
			s.Errorf("the logs of all containers: %q, want %q in it", ofAll, line)
		}
	}
	// The lines are older than a second when they are asked for.
	time.Sleep(1100 * time.Millisecond)
	if got := s.kubectl("logs", "pod", "-c", "talker", "--since=1s"); got != "" {
		s.Errorf("--since=1s: %q, want nothing of before", got)
	}
	if stamped := s.kubectl("logs", "pod", "-c", "talker", "--timestamps", "--tail=1"); !regexp.MustCompile(`^\d{4}-\d\d-\d\dT\S+ line 5\n$`).MatchString(stamped) {
		s.Errorf("--timestamps: %q", stamped)
	}

	// A followed log shows what is written after it was opened.
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	follow := kubectlCommand(ctx, "-n", s.name, "logs", "-f", "pod", "-c", "talker", "--tail=1")
	stdout, err := follow.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := follow.Start(); err != nil {
		s.Fatal(err)
	}
	defer func() { cancel(); _ = follow.Wait() }()
	lines := bufio.NewReader(stdout)
	expect := func(want string) {
		if line, err := lines.ReadString('\n'); line != want {
			s.Fatalf("logs -f shows %q, want %q (%v)", line, want, err)
		}
	}
	expect("line 5\n")
	s.kubectl("exec", "pod", "-c", "talker", "--", "sh", "-c", "echo later >/proc/1/fd/1")
	expect("later\n")

	if out, code := s.tryKubectl("", "logs", "pod", "-c", "mortal", "--previous"); code == 0 || !strings.Contains(out, "previous terminated container") {
		s.Errorf("--previous of a container that never restarted: code %d, %q", code, out)
	}
}

func execs(s *space) {
	if out := s.kubectl("exec", "pod", "-c", "talker", "--", "echo", "one", "two  three"); out != "one two  three\n" {
		s.Errorf("exec: %q", out)
	}
	for _, protocol := range []string{"WebSocket", "SPDY"} {
		s.Run(protocol, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), patience)
			defer cancel()
			for _, want := range []int{0, 1, 7, 255} {
				cmd := kubectlCommand(ctx, "-n", s.name, "exec", "-i", "pod", "-c", "talker", "--",
					"sh", "-c", fmt.Sprintf("tr a-z A-Z; echo problem >&2; exit %d", want))
				cmd.Env = append(cmd.Env, fmt.Sprintf("KUBECTL_REMOTE_COMMAND_WEBSOCKETS=%t", protocol == "WebSocket"))
				// More than any buffer on the way, and then the end of the input.
				input := strings.Repeat("through and through\n", 50_000)
				var stdout, stderr strings.Builder
				cmd.Stdin, cmd.Stdout, cmd.Stderr = strings.NewReader(input), &stdout, &stderr
				_ = cmd.Run()
				if code := cmd.ProcessState.ExitCode(); code != want {
					t.Errorf("exit %d: kubectl ends with %d: %s", want, code, stderr.String())
				}
				if stdout.String() != strings.ToUpper(input) {
					t.Errorf("of an input of %d bytes came back %d", len(input), stdout.Len())
				}
				if !strings.HasPrefix(stderr.String(), "problem\n") {
					t.Errorf("standard error is %q", stderr.String())
				}
			}
		})
	}
}

// terminal uses script(1), which gives kubectl a terminal.
func terminal(s *space) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	// The size is sent beside the stream: the shell waits until it has come.
	remote := `until [ "$(stty size)" = "33 77" ]; do sleep 0.1; done; tty; stty size; exit 7`
	cmd := exec.CommandContext(ctx, "script", "-qec",
		fmt.Sprintf("stty rows 33 cols 77; %s -n %s exec -it pod -c talker -- sh -c '%s'", kubectlPath(), s.name, remote), "/dev/null")
	cmd.Env = append(os.Environ(), "KUBECONFIG="+shared.Kubeconfig())
	cmd.WaitDelay = 5 * time.Second
	out, _ := cmd.CombinedOutput()
	if code := cmd.ProcessState.ExitCode(); code != 7 {
		s.Errorf("exit 7 in a terminal: kubectl ends with %d", code)
	}
	if !strings.Contains(string(out), "/dev/pts/") || !strings.Contains(string(out), "33 77") {
		s.Errorf("the terminal inside is not one, or not of 33 rows and 77 columns: %q", out)
	}
}

func attach(s *space) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	cmd := kubectlCommand(ctx, "-n", s.name, "attach", "-i", "-q", "pod", "-c", "attached")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		s.Fatal(err)
	}
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	lines := bufio.NewScanner(stdout)
	for _, word := range []string{"a", "word"} {
		fmt.Fprintln(stdin, word)
		if !lines.Scan() || lines.Text() != "heard "+word {
			s.Fatalf("the attached container says %q (%v)", lines.Text(), lines.Err())
		}
	}
}

func portForward(s *space) {
	ctx, cancel := context.WithTimeout(s.Context(), patience)
	defer cancel()
	cmd := kubectlCommand(ctx, "-n", s.name, "port-forward", "pod/pod", ":8080")
	stdout, err := cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		s.Fatal(err)
	}
	defer func() { cancel(); _ = cmd.Wait() }()
	line, err := bufio.NewReader(stdout).ReadString('\n')
	address := regexp.MustCompile(`127\.0\.0\.1:\d+`).FindString(line)
	if address == "" {
		s.Fatalf("port-forward says %q (%v)", line, err)
	}
	for range 3 {
		resp, err := http.Get("http://" + address + "/hello")
		if err != nil {
			s.Fatal(err)
		}
		body, _ := io.ReadAll(resp.Body)
		resp.Body.Close()
		if string(body) != "hello from pod\n" {
			s.Errorf("through the forwarded port: %s %q", resp.Status, body)
		}
	}
}

func copies(s *space) {
	const size = 100 << 20
	dir := s.TempDir()
	there, back := filepath.Join(dir, "there"), filepath.Join(dir, "back")
	f, err := os.Create(there)
	if err != nil {
		s.Fatal(err)
	}
	if _, err := io.CopyN(f, rand.Reader, size); err != nil {
		s.Fatal(err)
	}
	if err := f.Close(); err != nil {
		s.Fatal(err)
	}
	want := checksum(s, there)
	start := time.Now()
	s.kubectl("cp", there, "pod:/tmp/file", "-c", "talker")
	up := time.Since(start)
	if inside := strings.Fields(s.kubectl("exec", "pod", "-c", "talker", "--", "sha256sum", "/tmp/file"))[0]; inside != want {
		s.Errorf("in the pod the checksum is %s, want %s", inside, want)
	}
	start = time.Now()
	s.kubectl("cp", "pod:/tmp/file", back, "-c", "talker")
	s.Logf("kubectl cp of 100 MB took %.1f s there and %.1f s back", up.Seconds(), time.Since(start).Seconds())
	if got := checksum(s, back); got != want {
		s.Errorf("back again the checksum is %s, want %s", got, want)
	}
}

func checksum(s *space, path string) string {
	s.Helper()
	f, err := os.Open(path)
	if err != nil {
		s.Fatal(err)
	}
	defer f.Close()
	h := sha256.New()
	if _, err := io.Copy(h, f); err != nil {
		s.Fatal(err)
	}
	return fmt.Sprintf("%x", h.Sum(nil))
}
