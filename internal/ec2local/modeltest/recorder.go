package modeltest

import (
	"bytes"
	"encoding/json"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Recorder passes requests on and checks every answer that is a success. It is an http.RoundTripper.
type Recorder struct {
	next  http.RoundTripper
	model *Model // nil if none is installed
	t     testing.TB

	mu      sync.Mutex
	answers [][2]string // operation and body
}

// NewRecorder makes a Recorder for one test. Without a model nothing is checked, and the test's log says so. If a
// second validator, written in Python, lies beside the checkout, it sees all answers as well when the test ends.
func NewRecorder(t testing.TB, next http.RoundTripper) *Recorder {
	r := &Recorder{next: next, t: t}
	model, err := Load()
	if err != nil {
		t.Logf("answers are not checked against EC2's model: %v", err)
		return r
	}
	r.model = model
	t.Cleanup(r.validate)
	return r
}

// RoundTrip implements [http.RoundTripper].
func (r *Recorder) RoundTrip(req *http.Request) (*http.Response, error) {
	var sent []byte
	if req.Body != nil {
		var err error
		if sent, err = io.ReadAll(req.Body); err != nil {
			return nil, err
		}
		_ = req.Body.Close()
		req.Body = io.NopCloser(bytes.NewReader(sent))
	}
	resp, err := r.next.RoundTrip(req)
	if err != nil || resp.StatusCode != http.StatusOK {
		return resp, err
	}
	body, err := io.ReadAll(resp.Body)
	_ = resp.Body.Close()
	if err != nil {
		return nil, err
	}
	resp.Body = io.NopCloser(bytes.NewReader(body))
	form, err := url.ParseQuery(string(sent))
	if err != nil {
		return nil, err
	}
	r.record(form.Get("Action"), body)
	return resp, nil
}

func (r *Recorder) record(operation string, body []byte) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers = append(r.answers, [2]string{operation, string(body)})
	if r.model == nil {
		return
	}
	for _, problem := range r.model.Check(operation, body) {
		r.t.Errorf("answer against EC2's model: %s", problem)
	}
}

// Operations returns the operations that were answered successfully at least once.
func (r *Recorder) Operations() map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]bool{}
	for _, a := range r.answers {
		out[a[0]] = true
	}
	return out
}

// script runs the other validator over a list of answers.
const script = `
import json, sys
sys.path.insert(0, sys.argv[1])
from validate_ec2_xml import Model
model = Model(sys.argv[2])
for operation, body in json.load(sys.stdin):
    for problem in model.check(operation, body):
        print(problem)
`

// validate shows all answers to the other validator.
func (r *Recorder) validate() {
	_, here, _, _ := runtime.Caller(0)
	tools := filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "shared", "tools")
	if _, err := os.Stat(filepath.Join(tools, "validate_ec2_xml.py")); err != nil || strings.HasSuffix(r.model.File, ".gz") {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers) == 0 {
		return
	}
	input, err := json.Marshal(r.answers)
	if err != nil {
		r.t.Errorf("writing the answers: %v", err)
		return
	}
	cmd := exec.Command("python3", "-c", script, tools, r.model.File)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		r.t.Errorf("the other validator: %v\n%s", err, out)
	}
}
