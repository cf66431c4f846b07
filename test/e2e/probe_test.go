package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os/exec"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

const (
	// answerPatience is for a connection that is allowed, on a busy machine.
	answerPatience = 5 * time.Second
	// silence is how long one that is not allowed is waited for.
	silence = 400 * time.Millisecond
)

// newPeer is a pod that listens and can be told to connect.
func newPeer(name string, ports ...corev1.ContainerPort) *corev1.Pod {
	c := program("peer", "peer")
	c.Ports = ports
	return newPod(name, c)
}

// onNode makes it a pod of the ordinary node.
func onNode(pod *corev1.Pod) *corev1.Pod {
	pod.Spec.NodeSelector, pod.Spec.Tolerations = nil, nil
	pod.Spec.NodeName = "node-0"
	return pod
}

// prober makes connections from inside a pod. One exec serves for all: it does
// not go through the pod's network, and takes a while to begin.
type prober struct {
	cmd   *exec.Cmd
	input io.WriteCloser

	mu      sync.Mutex
	next    int
	results map[string]chan string
}

func (s *space) prober(pod string) *prober {
	s.Helper()
	p := &prober{results: map[string]chan string{}}
	p.cmd = kubectlCommand(s.Context(), "-n", s.name, "exec", "-i", pod, "--", "/testimage", "probe")
	var err error
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		s.Fatal(err)
	}
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		s.Fatal(err)
	}
	if err := p.cmd.Start(); err != nil {
		s.Fatal(err)
	}
	var reading sync.WaitGroup
	reading.Go(func() {
		lines := bufio.NewScanner(output)
		for lines.Scan() {
			id, result, _ := strings.Cut(lines.Text(), " ")
			p.mu.Lock()
			if c := p.results[id]; c != nil {
				c <- result
				delete(p.results, id)
			}
			p.mu.Unlock()
		}
	})
	s.Cleanup(func() {
		_ = p.input.Close()
		reading.Wait()
		_ = p.cmd.Wait() // its end is of no interest: Kip may have been killed
	})
	return p
}

// try makes a connection and returns what became of it.
func (p *prober) try(t testing.TB, network, address string, timeout time.Duration) string {
	result := make(chan string, 1)
	p.mu.Lock()
	p.next++
	id := strconv.Itoa(p.next)
	p.results[id] = result
	_, err := fmt.Fprintln(p.input, id, network, address, timeout)
	p.mu.Unlock()
	if err != nil {
		t.Errorf("telling the prober: %v", err)
		return err.Error()
	}
	select {
	case r := <-result:
		return r
	case <-time.After(timeout + patience):
		t.Errorf("the prober says nothing of %s %s", network, address)
		return "nothing"
	}
}

// reach is a connection of a table: "friend>server:8000/udp". One that nobody
// takes, but that arrives, is "friend>server:8000 refused".
type reach struct{ from, to, port, network, answer string }

func parseReach(text string) (r reach, err error) {
	var ok bool
	if text, r.answer, ok = strings.Cut(text, " "); !ok {
		r.answer = "ok"
	}
	if r.from, r.to, ok = strings.Cut(text, ">"); ok {
		r.to, r.port, ok = strings.Cut(r.to, ":")
	}
	if !ok {
		return r, fmt.Errorf("%q is no connection", text)
	}
	if r.port, r.network, ok = strings.Cut(r.port, "/"); !ok {
		r.network = "tcp"
	}
	return r, nil
}

// network is a few pods, by name.
type network struct {
	addresses map[string]string
	probers   map[string]*prober
}

// try makes a connection and says what became of it and what it would be if it
// arrived. allowed is whether it is expected to, and decides how long to wait.
func (n *network) try(t testing.TB, text string, allowed bool) (got, arrived string) {
	r, err := parseReach(text)
	if err != nil {
		t.Error(err)
		return err.Error(), ""
	}
	prober, address := n.probers[r.from], n.addresses[r.to]
	if prober == nil || address == "" {
		t.Errorf("%s: there are no such pods", text)
		return "", ""
	}
	timeout := silence
	if allowed {
		timeout = answerPatience
	}
	return prober.try(t, r.network, net.JoinHostPort(address, r.port), timeout), r.answer
}

// wrong makes all connections at once and says which of allowed were not
// answered, and which of denied were.
func (n *network) wrong(t testing.TB, allowed, denied []string) (wrong []string) {
	var mu sync.Mutex
	var wg sync.WaitGroup
	note := func(format string, args ...any) {
		mu.Lock()
		defer mu.Unlock()
		wrong = append(wrong, fmt.Sprintf(format, args...))
	}
	for _, c := range allowed {
		wg.Go(func() {
			if got, arrived := n.try(t, c, true); got != arrived {
				note("%s: %s, and it is allowed", c, got)
			}
		})
	}
	for _, c := range denied {
		wg.Go(func() {
			if got, _ := n.try(t, c, false); got != "timeout" {
				note("%s: %s, and it is denied", c, got)
			}
		})
	}
	wg.Wait()
	slices.Sort(wrong)
	return wrong
}

// becomes waits until all is as it should be, at once.
func (n *network) becomes(s *space, what string, allowed, denied []string) {
	s.Helper()
	s.eventually(what, func(context.Context) error {
		if wrong := n.wrong(s, allowed, denied); len(wrong) > 0 {
			return errors.New(strings.Join(wrong, "; "))
		}
		return nil
	})
}
