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
	"regexp"
	"runtime"
	"strings"
	"sync"
	"testing"
)

// Recorder passes requests on and checks every answer that is a success. It is an http.RoundTripper.
type Recorder struct {
	next http.RoundTripper
	t    testing.TB

	mu      sync.Mutex
	answers map[string][][2]string // by service: operation and body
}

// NewRecorder makes a Recorder for one test. Without a model nothing is checked, and the test's log says so. If a
// second validator, written in Python, lies beside the checkout, it sees all answers of EC2 as well when the test ends.
func NewRecorder(t testing.TB, next http.RoundTripper) *Recorder {
	r := &Recorder{next: next, t: t, answers: map[string][][2]string{}}
	if _, err := Load(ec2); err != nil {
		t.Logf("answers are not checked against AWS's models: %v", err)
		return r
	}
	t.Cleanup(r.validate)
	return r
}

const ec2 = "ec2"

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
	if err != nil || resp.StatusCode/100 != 2 {
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
		form = url.Values{} // it is JSON
	}
	r.record(req, resp.StatusCode, form.Get("Action"), body)
	return resp, nil
}

// signedFor finds the service in the scope of a signature.
var signedFor = regexp.MustCompile(`Credential=[^/]+/[0-9]+/[^/]+/([^/]+)/aws4_request`)

// record checks an answer. operation is empty unless the request was a form.
func (r *Recorder) record(req *http.Request, status int, operation string, body []byte) {
	service := "sts" // the only one that takes requests without a signature
	if found := signedFor.FindStringSubmatch(req.Header.Get("Authorization")); found != nil {
		service = found[1]
	}
	model, err := Load(service)
	if _, target, ok := strings.Cut(req.Header.Get("X-Amz-Target"), "."); ok {
		operation = target
	} else if operation == "" && err == nil {
		operation = model.restOperation(req)
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answers[service] = append(r.answers[service], [2]string{operation, string(body)})
	if err != nil {
		return
	}
	if want := model.Operations[operation].HTTP.ResponseCode; want != 0 && want != status {
		r.t.Errorf("answer against the model of %s: %s: the status is %d instead of %d", service, operation, status, want)
	}
	for _, problem := range model.Check(operation, body) {
		r.t.Errorf("answer against the model of %s: %s", service, problem)
	}
}

// Operations returns the operations of a service that were answered successfully at least once.
func (r *Recorder) Operations(service string) map[string]bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	out := map[string]bool{}
	for _, a := range r.answers[service] {
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

// validate shows all answers of EC2 to the other validator.
func (r *Recorder) validate() {
	_, here, _, _ := runtime.Caller(0)
	tools := filepath.Join(filepath.Dir(here), "..", "..", "..", "..", "shared", "tools")
	model, err := Load(ec2)
	if err != nil || strings.HasSuffix(model.File, ".gz") {
		return
	}
	if _, err := os.Stat(filepath.Join(tools, "validate_ec2_xml.py")); err != nil {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.answers[ec2]) == 0 {
		return
	}
	input, err := json.Marshal(r.answers[ec2])
	if err != nil {
		r.t.Errorf("writing the answers: %v", err)
		return
	}
	cmd := exec.Command("python3", "-c", script, tools, model.File)
	cmd.Stdin = bytes.NewReader(input)
	out, err := cmd.CombinedOutput()
	if err != nil || len(out) > 0 {
		r.t.Errorf("the other validator: %v\n%s", err, out)
	}
}
