package provider

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"time"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/podlogs"
)

const (
	// keepTimeout bounds how long logs of an ended pod are fetched while its
	// instance costs money, all attempts together; keepAttempt bounds one, so
	// that a cell that answers with silence does not hold up other pods.
	keepTimeout = 60 * time.Second
	keepAttempt = 20 * time.Second

	// holdTimeout bounds one attempt to have a cell hold logs.
	holdTimeout = 5 * time.Second

	// keepRetry is the wait after a failed attempt.
	keepRetry = time.Second

	// refusalPatience: a kubelet that was started anew does not know its pod for
	// some seconds. After that its refusal to show a log is believed.
	refusalPatience = 10 * time.Second

	// followTimeout is how long after a pod's end those who follow its logs may
	// take to read the rest. A kubelet looks once a second whether the container
	// it follows has ended.
	followTimeout = time.Second
	followPoll    = 50 * time.Millisecond

	// sweepInterval is how often the provider looks for what it need not keep.
	sweepInterval = 10 * time.Minute
)

// lastWords saves what an ended pod has written before its instance goes: it
// keeps the logs and lets those who follow them come to the end. It returns
// how long to wait before it is called again, 0 when nothing is left to do.
func (p *Provider) lastWords(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) time.Duration {
	p.mu.Lock()
	r := p.record(pod.UID)
	if r.finished.IsZero() {
		r.finished = p.Clock.Now()
	}
	finished := r.finished
	p.mu.Unlock()

	// Nobody can ask for the logs of a pod that is being deleted much longer.
	if pod.DeletionTimestamp == nil && !p.Logs.Has(pod.UID) && !p.keepLogs(ctx, pod, cell, finished) {
		return keepRetry
	}
	if !instanceGone(cell) && p.Following(cell.Name) && p.Clock.Since(finished) < followTimeout {
		return followPoll
	}
	return 0
}

// keepLogs fetches the logs of an ended pod. It returns false when it should
// be called again.
func (p *Provider) keepLogs(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell, finished time.Time) (done bool) {
	sources := p.logSources(pod, cell.Name, p.Clock.Since(finished) >= refusalPatience)
	if instanceGone(cell) {
		if len(sources) > 0 {
			p.Recorder.Eventf(pod, corev1.EventTypeWarning, "LogsLost", "the instance of cell %s was gone before the logs were fetched", cell.Name)
		}
		return true
	}
	attempt, cancel := context.WithTimeout(ctx, keepAttempt)
	defer cancel()
	err := p.Logs.Keep(attempt, pod.UID, sources)
	switch {
	case err == nil:
		return true
	case ctx.Err() != nil:
		return false // Kip stops
	case p.Clock.Since(finished) < keepTimeout:
		p.Log.Warn("keeping the logs of an ended pod", "pod", pod.Namespace+"/"+pod.Name, "cell", cell.Name, "err", err)
		return false
	}
	p.Recorder.Eventf(pod, corev1.EventTypeWarning, "LogsLost",
		"the logs of the ended pod could not be fetched from cell %s within %s: %v", cell.Name, keepTimeout, err)
	return true
}

// holdLogs has the agent hold on to the logs of a pod that is being stopped for
// good: its kubelet takes it for deleted and removes them with the containers,
// often before they are kept. It returns false when it should be called again.
func (p *Provider) holdLogs(ctx context.Context, pod *corev1.Pod, cell *v1beta1.Cell) (done bool) {
	if p.known(pod.UID).held || runsAgain(pod, p.newestStatus(pod)) {
		return true
	}
	ctx, cancel := context.WithTimeout(ctx, holdTimeout)
	defer cancel()
	if err := p.askToHold(ctx, cell.Name); err != nil {
		p.Log.Warn("having the cell hold its pod's logs", "pod", pod.Namespace+"/"+pod.Name, "cell", cell.Name, "err", err)
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.record(pod.UID).held = true
	return true
}

func (p *Provider) askToHold(ctx context.Context, cell string) error {
	transport, err := p.Transport(cell)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, "https://"+cell+"/kip/v1/podlogs/hold", nil)
	if err != nil {
		return err
	}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	switch {
	case resp.StatusCode/100 == 2:
	case resp.StatusCode == http.StatusNotFound, resp.StatusCode == http.StatusMethodNotAllowed:
		// An older agent, which does not know how. That is no fault.
	default:
		return fmt.Errorf("the agent answered %s", resp.Status)
	}
	return nil
}

// logSources are the logs of every container that ran. Only names that the
// pod's specification has are used: the status is a cell's word.
func (p *Provider) logSources(pod *corev1.Pod, cell string, believe bool) []podlogs.Source {
	ran := map[string]corev1.ContainerStatus{}
	for _, list := range [][]corev1.ContainerStatus{
		pod.Status.InitContainerStatuses, pod.Status.ContainerStatuses, pod.Status.EphemeralContainerStatuses,
	} {
		for _, s := range list {
			if s.ContainerID != "" {
				ran[s.Name] = s
			}
		}
	}
	var sources []podlogs.Source
	add := func(name string) {
		s, ok := ran[name]
		if !ok {
			return
		}
		sources = append(sources, p.logSource(pod, cell, name, s.RestartCount, false, believe))
		if t := s.LastTerminationState.Terminated; t != nil && t.ContainerID != "" {
			// The kubelet may have removed the run before the last: that is no fault.
			sources = append(sources, p.logSource(pod, cell, name, s.RestartCount-1, true, true))
		}
	}
	for i := range pod.Spec.InitContainers {
		add(pod.Spec.InitContainers[i].Name)
	}
	for i := range pod.Spec.Containers {
		add(pod.Spec.Containers[i].Name)
	}
	for i := range pod.Spec.EphemeralContainers {
		add(pod.Spec.EphemeralContainers[i].Name)
	}
	return sources
}

// logSource is one log in the cell: of the container's run with this number, as
// the kubelet counts restarts. With believe, a kubelet that refuses to show it is
// taken to have none.
func (p *Provider) logSource(pod *corev1.Pod, cell, container string, run int32, previous, believe bool) podlogs.Source {
	return podlogs.Source{Container: container, Previous: previous, Open: func(ctx context.Context) (io.ReadCloser, error) {
		transport, err := p.Transport(cell)
		if err != nil {
			return nil, err
		}
		// The file itself: a kubelet sends a log line by line, of 10 MiB for
		// seconds.
		resp, err := get(ctx, transport, url.URL{Scheme: "https", Host: cell,
			Path: fmt.Sprintf("/kip/v1/podlogs/%s_%s_%s/%s/%d.log", pod.Namespace, pod.Name, pod.UID, container, run)})
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return podlogs.FromFile(resp.Body), nil
		}
		resp.Body.Close()

		query := url.Values{"timestamps": {"true"}}
		if previous {
			query.Set("previous", "true")
		}
		resp, err = get(ctx, transport, url.URL{Scheme: "https", Host: cell, RawQuery: query.Encode(),
			Path: "/kubelet/containerLogs/" + pod.Namespace + "/" + pod.Name + "/" + container})
		if err != nil {
			return nil, err
		}
		if resp.StatusCode == http.StatusOK {
			return resp.Body, nil
		}
		defer resp.Body.Close()
		// Why the kubelet refused; it is a line of text.
		text, _ := io.ReadAll(io.LimitReader(resp.Body, 512))
		err = fmt.Errorf("the kubelet answered %s: %s", resp.Status, text)
		if believe && (resp.StatusCode == http.StatusBadRequest || resp.StatusCode == http.StatusNotFound) {
			p.Log.Warn("an ended container has no log", "pod", pod.Namespace+"/"+pod.Name, "container", container, "previous", previous, "err", err)
			return nil, fmt.Errorf("%w: %w", podlogs.ErrNoLog, err)
		}
		return nil, err
	}}
}

func get(ctx context.Context, transport http.RoundTripper, u url.URL) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, u.String(), nil)
	if err != nil {
		return nil, err
	}
	return transport.RoundTrip(req)
}

// Sweep forgets, at once and from time to time until ctx ends, what is kept of
// pods that left the API server while no Kip ran or just while it was noted
// down. The caches must be synced.
func (p *Provider) Sweep(ctx context.Context) error {
	for {
		if err := p.sweep(ctx); err != nil && ctx.Err() == nil {
			p.Log.Error("forgetting pods that are gone", "err", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-p.Clock.After(sweepInterval):
		}
	}
}

func (p *Provider) sweep(ctx context.Context) error {
	// What is kept comes first and the pods after it: of a pod that the cache
	// does not know nothing would have been kept yet.
	kept, err := p.Logs.UIDs()
	if err != nil {
		return err
	}
	p.mu.Lock()
	for uid := range p.records {
		kept = append(kept, uid)
	}
	p.mu.Unlock()
	var pods corev1.PodList
	if err := p.Client.List(ctx, &pods); err != nil {
		return fmt.Errorf("listing pods: %w", err)
	}
	known := map[types.UID]bool{}
	for i := range pods.Items {
		known[pods.Items[i].UID] = true
	}
	for _, uid := range kept {
		if !known[uid] {
			p.forget(uid)
		}
	}
	return nil
}
