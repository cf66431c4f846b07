// Package podmetricstest has what the kubelet (v1.36.3) of one cell answered
// about its pod, for tests and for cells that only look like some.
package podmetricstest

import (
	"embed"
	"encoding/json"
	"strings"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/podmetrics/report"
)

// The pod that the answers are about.
const (
	Namespace = "default"
	Name      = "web-7667c7b945-jn4k4"
	UID       = "cf3331f7-f428-43af-a4b5-93f47435d1fa"
)

//go:embed testdata
var answers embed.FS

// Answer is what the kubelet answered: summary.json to /stats/summary, and
// resource.txt, cadvisor.txt and probes.txt to what is below /metrics.
func Answer(file string) string {
	data, err := answers.ReadFile("testdata/" + file)
	if err != nil {
		panic(err) // the files are part of the program
	}
	return string(data)
}

// Report is what the agent would send of a pod with these names.
func Report(pod *corev1.Pod) report.Report {
	return Renamed(report.Report{
		Pods: Pods(), Resource: report.AboutPods(Answer("resource.txt")),
		CAdvisor: report.AboutPods(Answer("cadvisor.txt")), Probes: report.AboutPods(Answer("probes.txt")),
	}, pod)
}

// Pods is "pods" of the kubelet's summary.
func Pods() json.RawMessage {
	var summary struct{ Pods json.RawMessage }
	if err := json.Unmarshal([]byte(Answer("summary.json")), &summary); err != nil {
		panic(err) // see Answer
	}
	return summary.Pods
}

// Renamed is a report of these answers as the cell of another pod would send it.
func Renamed(r report.Report, pod *corev1.Pod) report.Report {
	names := strings.NewReplacer(Name, pod.Name, UID, string(pod.UID), `"`+Namespace+`"`, `"`+pod.Namespace+`"`)
	return report.Report{
		Pods: json.RawMessage(names.Replace(string(r.Pods))), Resource: names.Replace(r.Resource),
		CAdvisor: names.Replace(r.CAdvisor), Probes: names.Replace(r.Probes),
	}
}
