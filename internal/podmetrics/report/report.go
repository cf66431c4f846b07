// Package report is what a cell's agent tells Kip of its pod's use of the
// instance, and how that is sent: gzipped text, of which the first line is JSON
// and the rest are samples of metrics, in sections. It is shared by the two,
// and so uses none of Kubernetes' packages (docs/adr/0010-a-small-agent.md).
package report

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

const (
	// Path is where Kip's gateway takes reports.
	Path = "/kip/v1/pod-metrics"
	// MediaType is that of an encoded report.
	MediaType = "application/gzip"

	// MaxEncoded and MaxDecoded bound a report, in bytes. That of a pod of one
	// container has some 3 KiB and 45 KiB.
	MaxEncoded = 512 << 10
	MaxDecoded = 4 << 20
)

// Report is one report. Kip believes nothing in it that is not about the cell's
// own pod.
type Report struct {
	// Pods is "pods" of the kubelet's /stats/summary.
	Pods json.RawMessage
	// Resource, CAdvisor and Probes are the lines of the kubelet's
	// /metrics/resource, cadvisor and probes that are about a pod, without
	// comments. (The times in Pods are whole seconds, which is too little for
	// the rates of those who read Resource.)
	Resource, CAdvisor, Probes string
}

// The lines with which the sections begin.
const (
	resourceSection = "\n# resource\n"
	cadvisorSection = "\n# cadvisor\n"
	probesSection   = "\n# probes\n"
)

// Encode returns the report as it is sent.
func (r Report) Encode() ([]byte, error) {
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestSpeed)
	if err != nil {
		return nil, fmt.Errorf("encoding a report: %w", err)
	}
	var pods bytes.Buffer
	if err := json.Compact(&pods, r.Pods); err != nil {
		return nil, fmt.Errorf("encoding a report: %w", err)
	}
	for _, text := range []string{pods.String(), resourceSection, r.Resource, cadvisorSection, r.CAdvisor, probesSection, r.Probes} {
		if _, err := io.WriteString(z, text); err != nil {
			return nil, fmt.Errorf("encoding a report: %w", err)
		}
	}
	if err := z.Close(); err != nil {
		return nil, fmt.Errorf("encoding a report: %w", err)
	}
	return b.Bytes(), nil
}

// Errors of Decode.
var (
	ErrTooBig  = fmt.Errorf("the report has more than %d bytes", MaxDecoded)
	ErrSection = errors.New("the report lacks a section")
)

// Decode reads an encoded report, whoever may have sent it. Pods may be
// anything.
func Decode(data []byte) (Report, error) {
	z, err := gzip.NewReader(bytes.NewReader(data))
	if err != nil {
		return Report{}, fmt.Errorf("reading a report: %w", err)
	}
	var b strings.Builder
	n, err := io.Copy(&b, io.LimitReader(z, MaxDecoded+1))
	if err != nil {
		return Report{}, fmt.Errorf("reading a report: %w", err)
	}
	if n > MaxDecoded {
		return Report{}, ErrTooBig
	}
	pods, rest, hasResource := strings.Cut(b.String(), resourceSection)
	resource, rest, hasCAdvisor := strings.Cut(rest, cadvisorSection)
	cadvisor, probes, hasProbes := strings.Cut(rest, probesSection)
	if !hasResource || !hasCAdvisor || !hasProbes {
		return Report{}, ErrSection
	}
	return Report{Pods: json.RawMessage(pods), Resource: resource, CAdvisor: cadvisor, Probes: probes}, nil
}

// AboutPods is the lines of a kubelet's metrics whose label pod is not empty.
func AboutPods(text string) string {
	var kept strings.Builder
	for line := range strings.Lines(text) {
		_, value, ok := strings.Cut(line, `,pod="`)
		if !ok {
			_, value, ok = strings.Cut(line, `{pod="`)
		}
		if ok && !strings.HasPrefix(line, "#") && !strings.HasPrefix(value, `"`) {
			kept.WriteString(line)
		}
	}
	return kept.String()
}
