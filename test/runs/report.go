package runs

import (
	"bytes"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"
)

const (
	// every is how often a run tells that it lasts. Two runs that must not
	// overlap are seen to do so if they do for longer.
	every = 250 * time.Millisecond
	// answerTime is how long a report is waited for.
	answerTime = 2 * time.Second
)

// Pod is the pod that a run belongs to.
type Pod struct {
	Name string `json:"name"`
	UID  string `json:"uid"`
	// HostIP is the address of the pod's instance.
	HostIP string `json:"hostIP"`
	// Index is that of an indexed Job's pod, otherwise empty.
	Index string `json:"index,omitempty"`
}

// Report is what a run says of itself.
type Report struct {
	Pod
	// Run tells this run from all others.
	Run string    `json:"run"`
	At  time.Time `json:"at"`
	// What is the news, if there is any.
	What What `json:"what,omitempty"`
}

// What a run may have to say besides that it lasts.
type What string

const (
	// Done: the work is done. The program ends as soon as that is on record.
	Done What = "done"
	// Told: the program was told to end.
	Told What = "told"
)

// ErrTold is the end of a run that was told to end before its work was done.
var ErrTold = errors.New("told to end")

// Work is a run: it works for a while, or for ever if that is 0, and reports to
// url. It begins when its beginning is on record, and ends without an error when
// its end is. When ctx is done it was told to end.
func Work(ctx context.Context, url string, pod Pod, work time.Duration) error {
	w := &worker{url: url, report: Report{Pod: pod, Run: rand.Text()}, client: &http.Client{Timeout: answerTime}}
	if err := w.insist(ctx, ""); err != nil {
		return err
	}
	var done <-chan time.Time
	if work > 0 {
		done = time.After(work)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			// One attempt: whoever is told to end has little time.
			return errors.Join(ErrTold, w.tell(Told))
		case <-done:
			return w.insist(ctx, Done)
		case <-tick.C:
			_ = w.tell("") // the next one says as much
		}
	}
}

type worker struct {
	url    string
	report Report
	client *http.Client
}

// insist reports until that is on record.
func (w *worker) insist(ctx context.Context, what What) error {
	for {
		err := w.tell(what)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ErrTold, err)
		case <-time.After(every):
		}
	}
}

func (w *worker) tell(what What) error {
	w.report.At, w.report.What = time.Now(), what
	body, err := json.Marshal(w.report)
	if err != nil {
		return err
	}
	resp, err := w.client.Post(w.url, "application/json", bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("reporting a run: %w", err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusNoContent {
		return fmt.Errorf("reporting a run: %s", resp.Status)
	}
	return nil
}
