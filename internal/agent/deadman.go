package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"time"
)

const (
	// deadManInterval is how often the agent looks whether it is still needed.
	deadManInterval = time.Minute
	// deadManTimeout bounds one answer of the kubelet.
	deadManTimeout = 10 * time.Second
	// maxPodLists bounds an answer of the kubelet, in bytes.
	maxPodLists = 4 << 20
)

// deadMan switches off a machine that nobody needs and nobody ends: Kip has not
// been connected for as long as after, and no pod should run. Nothing but Kip
// ends instances, and where Kip was lost with its cluster they would cost money
// for ever.
type deadMan struct {
	after, interval time.Duration
	// lastContact is when Kip was connected last.
	lastContact func() time.Time
	kubelet     *http.Client
	powerOff    func(reason string)
	logger      *slog.Logger
}

// watch looks in each interval until ctx ends.
func (d *deadMan) watch(ctx context.Context) {
	ticker := time.NewTicker(d.interval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
		}
		if !d.due() {
			continue
		}
		left, err := d.podLeft(ctx)
		switch {
		case err != nil && ctx.Err() == nil:
			// A pod may run of which nobody tells.
			d.logger.Warn("Kip has been away for long, and it cannot be told whether a pod runs", "error", err)
		case err == nil && left == "" && d.due():
			d.powerOff(fmt.Sprintf("Kip has been away for %s, and no pod should run", d.after))
			return
		}
	}
}

func (d *deadMan) due() bool { return time.Since(d.lastContact()) >= d.after }

// podLeft names a pod that should run, or of which something runs. The kubelet
// is asked for both: one that has started again while Kip was away knows of no
// pod, and finds its containers; and a pod between two runs of its container may
// have none.
func (d *deadMan) podLeft(ctx context.Context) (name string, err error) {
	running, err := d.pods(ctx, "/runningpods/")
	if err != nil {
		return "", err
	}
	if len(running) > 0 {
		return running[0].Metadata.Name, nil
	}
	pods, err := d.pods(ctx, "/pods")
	if err != nil {
		return "", err
	}
	for _, p := range pods {
		if !p.ended() {
			return p.Metadata.Name, nil
		}
	}
	return "", nil
}

// kubeletPod is what the kubelet's lists of pods say that matters here. The
// agent has no room for Kubernetes' own types.
type kubeletPod struct {
	Metadata struct {
		Name              string     `json:"name"`
		DeletionTimestamp *time.Time `json:"deletionTimestamp"`
	} `json:"metadata"`
	Status struct {
		Phase string `json:"phase"`
	} `json:"status"`
}

// ended is whether nothing of a pod of which nothing runs is to run again: it is
// over, or it was deleted.
func (p kubeletPod) ended() bool {
	return p.Status.Phase == "Succeeded" || p.Status.Phase == "Failed" || p.Metadata.DeletionTimestamp != nil
}

func (d *deadMan) pods(ctx context.Context, path string) ([]kubeletPod, error) {
	ctx, cancel := context.WithTimeout(ctx, deadManTimeout)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "https://"+kubeletAddress+path, nil)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	resp, err := d.kubelet.Do(req)
	if err != nil {
		return nil, fmt.Errorf("asking the kubelet for %s: %w", path, err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("asking the kubelet for %s: status %d", path, resp.StatusCode)
	}
	var list struct {
		Kind  string       `json:"kind"`
		Items []kubeletPod `json:"items"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxPodLists)).Decode(&list); err != nil {
		return nil, fmt.Errorf("reading the kubelet's answer to %s: %w", path, err)
	}
	if list.Kind != "PodList" {
		return nil, errors.New("the kubelet's answer to " + path + " is no list of pods")
	}
	return list.Items, nil
}
