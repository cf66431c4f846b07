package hollowcell

import (
	"context"
	"encoding/json"
	"errors"
	"io"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/watch"
)

const (
	// minWatch is how long a reflector asks a watch to last at least; at most it is twice that.
	minWatch = 5 * time.Minute
	// Reflectors wait so long after an error, twice as long after each further one.
	minBackoff = 800 * time.Millisecond
	maxBackoff = 30 * time.Second
)

// event is one of a watch.
type event struct {
	Type   watch.EventType `json:"type"`
	Object json.RawMessage `json:"object"`
}

// errExpired is the end of a watch that is to begin anew.
var errExpired = errors.New("the watch cannot go on")

// follow watches a resource as a reflector does, until ctx ends. Each event but bookmarks goes to see, if that is not
// nil.
func (k *kubelet) follow(ctx context.Context, path string, query url.Values, see func(event)) {
	version, fresh, backoff := "", true, minBackoff
	for ctx.Err() == nil {
		err := k.watch(ctx, path, query, fresh, &version, see)
		fresh = err != nil
		if err == nil {
			backoff = minBackoff
			continue
		}
		if errors.Is(err, errExpired) {
			version = ""
		}
		if !sleep(ctx, backoff+rand.N(backoff)) { //nolint:gosec // no secret
			return
		}
		backoff = min(2*backoff, maxBackoff)
	}
}

// watch is one request. It begins with the state if it is fresh, else after version, and returns nil when the time that
// it asked for is over.
func (k *kubelet) watch(ctx context.Context, path string, query url.Values, fresh bool, version *string, see func(event)) error {
	query = maps.Clone(query)
	query.Set("watch", "true")
	query.Set("allowWatchBookmarks", "true")
	query.Set("resourceVersion", *version)
	query.Set("timeoutSeconds", strconv.Itoa(int((minWatch + rand.N(minWatch)).Seconds()))) //nolint:gosec // no secret
	if fresh {
		query.Set("sendInitialEvents", "true")
		query.Set("resourceVersionMatch", string(metav1.ResourceVersionMatchNotOlderThan))
	}
	resp, err := k.send(ctx, http.MethodGet, path+"?"+query.Encode(), "", nil)
	if status, ok := errors.AsType[*statusError](err); ok && status.code == http.StatusGone {
		return errExpired
	}
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	for events := json.NewDecoder(resp.Body); ; {
		var e event
		if err := events.Decode(&e); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		if e.Type == watch.Error {
			return errExpired
		}
		var object metav1.PartialObjectMetadata
		if err := json.Unmarshal(e.Object, &object); err != nil {
			return err
		}
		*version = object.ResourceVersion
		if see != nil && e.Type != watch.Bookmark {
			see(e)
		}
	}
}

// sleep is false if ctx ends first.
func sleep(ctx context.Context, d time.Duration) bool {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return true
	case <-ctx.Done():
		return false
	}
}

// named selects one object by name.
func named(name string) url.Values {
	return url.Values{"fieldSelector": {metav1.ObjectNameField + "=" + name}}
}

// without selects objects that lack all of the labels.
func without(labels ...string) url.Values {
	slices.Sort(labels)
	selector := ""
	for i, label := range labels {
		if i > 0 {
			selector += ","
		}
		selector += "!" + label
	}
	return url.Values{"labelSelector": {selector}}
}
