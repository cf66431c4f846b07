package e2e

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
	"github.com/elotl/kip/v2/internal/tunnel"
	"github.com/elotl/kip/v2/internal/userdata"
)

func readAll(r io.Reader) ([]byte, error) { return io.ReadAll(io.LimitReader(r, 16<<20)) }

func clusterFile() []byte {
	data, _ := os.ReadFile(filepath.Join(shared.Dir, "cluster.json")) // read by newCloud before
	return data
}

// secrets are what must be in no user data, tag, log, event or Cell: private
// keys, and tokens of service accounts.
var secrets = regexp.MustCompile(`PRIVATE KEY|eyJhbGciOi[A-Za-z0-9_-]{20,}`)

// What anybody can read of a cell holds nothing that gives power: no private
// key, and a token that is worth nothing once it was used.
func TestNothingSecretLiesAbout(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	pod := s.start(newPod("pod", shell("main", forever)))
	cell := s.cellOf(pod)
	m := machineOf(t, cell)

	doc, err := userdata.Decode(m.userData(t))
	if err != nil {
		t.Fatal(err)
	}
	if doc.Cell != cell.Name || doc.EnrolmentToken == "" {
		t.Fatalf("user data is for cell %q with token %q", doc.Cell, doc.EnrolmentToken)
	}
	plain, err := json.Marshal(doc) // what comes compressed, perhaps
	if err != nil {
		t.Fatal(err)
	}
	if found := secrets.Find(plain); found != nil {
		t.Errorf("user data holds %.40q", found)
	}

	texts := map[string]string{}
	instances, err := shared.cloud.instances(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for id, i := range instances {
		for _, tag := range i.Tags {
			texts["tag of "+id] += *tag.Key + "=" + *tag.Value + "\n"
		}
	}
	texts["cells"] = s.kubectl("get", "cells", "-o", "yaml")
	texts["events"] = s.kubectl("get", "events", "-A", "-o", "yaml")
	for _, pattern := range []string{
		filepath.Join(shared.Dir, "logs", "*.log"),
		fmt.Sprintf("/proc/%d/root/var/log/kip/*.log", m.init),
		filepath.Join(shared.Dir, "ec2", "machines", "*", "console*"),
	} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatalf("no files %s (%v)", pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil && !errors.Is(err, fs.ErrNotExist) { // another test's instance may go meanwhile
				t.Fatal(err)
			}
			texts[file] = string(data)
		}
	}
	for where, text := range texts {
		if found := secrets.FindString(text); found != "" {
			t.Errorf("%s: holds %.40q", where, found)
		}
		if strings.Contains(text, doc.EnrolmentToken) {
			t.Errorf("%s: holds the cell's enrolment token", where)
		}
	}
}

// memoryStore is an attacker's tunnel.Store.
type memoryStore struct {
	mu       sync.Mutex
	identity *tunnel.Identity
}

func (m *memoryStore) Load() (tunnel.Identity, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.identity == nil {
		return tunnel.Identity{}, fs.ErrNotExist
	}
	return *m.identity, nil
}

func (m *memoryStore) Save(i tunnel.Identity) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.identity = &i
	return nil
}

// Somebody who owns the cell takes the agent's place, with the token from user
// data and a key of his own, when Kip connects anew. He is refused, which is
// reported, and Kip goes back to the real agent when that can be reached. It
// restarts Kip, so it runs alone.
func TestReplayedEnrolmentIsRefused(t *testing.T) {
	s := newSpace(t)
	pod := s.start(newPod("pod", shell("main", forever)))
	cell := s.cellOf(pod)
	m := machineOf(t, cell)
	doc, err := userdata.Decode(m.userData(t))
	if err != nil {
		t.Fatal(err)
	}

	attacker, err := tunnel.NewServer(tunnel.ServerConfig{
		Cell: doc.Cell, CACertificates: doc.CACertificates, EnrolmentToken: doc.EnrolmentToken,
		Store: &memoryStore{}, API: http.NotFoundHandler(), Version: "attacker", Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		t.Fatal(err)
	}
	var listener net.Listener
	if err := m.inNetwork(func() (err error) {
		listener, err = net.Listen("tcp", ":16421")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	var served sync.WaitGroup
	served.Go(func() { _ = attacker.Serve(ctx, listener) })
	defer served.Wait()
	defer cancel()

	s.kill(localcluster.Kip)
	restarted := false
	defer func() {
		if !restarted {
			s.startComponent(localcluster.Kip)
		}
	}()
	m.nft(t, `table ip e2e { chain c { type nat hook prerouting priority dstnat; tcp dport 6421 redirect to :16421; }; }`)
	s.startComponent(localcluster.Kip)
	restarted = true

	about := metav1.ListOptions{FieldSelector: "involvedObject.name=" + cell.Name + ",reason=" + v1beta1.ReasonEnrolmentRefused}
	s.eventually("an event reports the attacker", func(ctx context.Context) error {
		events, err := shared.kube.CoreV1().Events(metav1.NamespaceAll).List(ctx, about)
		if err != nil {
			return err
		}
		if len(events.Items) == 0 {
			return errors.New("there is none")
		}
		t.Logf("event %s: %s", events.Items[0].Reason, events.Items[0].Message)
		return nil
	})
	if n, err := metric(t.Context(), "kip_enrolments_refused_total"); err != nil || n < 1 {
		t.Errorf("kip_enrolments_refused_total is %v (%v), want 1 or more", n, err)
	}
	select {
	case <-attacker.Enrolled():
		t.Error("the attacker has got a certificate")
	default:
	}
	if now := s.cellOf(pod); now.Status.Enrolment.KeySHA256 != cell.Status.Enrolment.KeySHA256 {
		t.Error("the Cell's record of its key has changed")
	}

	m.nft(t, "delete table ip e2e")
	s.eventually("Kip is back with the real agent", func(context.Context) error {
		if out, code := s.tryKubectl("", "exec", "pod", "--", "echo", "here"); out != "here\n" {
			return fmt.Errorf("code %d: %s", code, out)
		}
		return nil
	})
	if now := s.awaitReady("pod"); now.UID != pod.UID || now.Status.ContainerStatuses[0].RestartCount != 0 {
		t.Error("the attack cost the pod its life")
	}
}

// nft changes the instance's packet filter.
func (m machine) nft(t *testing.T, command string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), "nsenter", "--net", "--target", fmt.Sprint(m.init), "nft", "-f", "-")
	cmd.Stdin = strings.NewReader(command + "\n")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("nft %s: %v\n%s", command, err, out)
	}
}
