package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// cellLog is what Kip's log says about one cell.
type cellLog struct {
	cell, pod, instance, address string

	taken     time.Time // a pod took it: it was a standby cell
	written   time.Time // its Cell is in the API server
	sent      time.Time // RunInstances was called
	launched  time.Time // and has answered, with an address
	reached   time.Time // its agent accepted a connection
	enrolled  time.Time
	connected time.Time
}

// kipLog reads Kip's log and returns its cells by the names of their pods.
func (b *bench) kipLog() (map[string]*cellLog, error) {
	text, err := os.ReadFile(b.LogPath(localcluster.Kip))
	if err != nil {
		return nil, err
	}
	return parseKipLog(string(text))
}

// cellOf is what Kip's log says about the pod's cell.
func (b *bench) cellOf(pod *corev1.Pod) (*cellLog, error) {
	log, err := b.kipLog()
	if err != nil {
		return nil, err
	}
	if log[pod.Name] == nil {
		return nil, fmt.Errorf("there is nothing about pod %s in Kip's log", pod.Name)
	}
	return log[pod.Name], nil
}

func parseKipLog(text string) (map[string]*cellLog, error) {
	cells, byPod := map[string]*cellLog{}, map[string]*cellLog{}
	for line := range strings.Lines(text) {
		fields := parseLine(line)
		name := fields["cell"]
		if name == "" {
			continue
		}
		if cells[name] == nil {
			cells[name] = &cellLog{cell: name}
		}
		c := cells[name]
		at := func(t *time.Time, less time.Duration) (err error) {
			if t.IsZero() {
				*t, err = time.Parse(time.RFC3339Nano, fields["time"])
				*t = t.Add(-less)
			}
			return err
		}
		var err error
		switch fields["msg"] {
		case "cell made":
			_, c.pod, _ = strings.Cut(fields["pod"], "/")
			byPod[c.pod] = c
			err = at(&c.written, 0)
		case "standby cell taken":
			_, c.pod, _ = strings.Cut(fields["pod"], "/")
			byPod[c.pod] = c
			err = at(&c.taken, 0)
		case "instance launched":
			c.instance, c.address = fields["instance"], fields["address"]
			var took time.Duration
			if took, err = time.ParseDuration(fields["took"]); err == nil {
				err = at(&c.sent, took)
			}
			if err == nil {
				err = at(&c.launched, 0)
			}
		case "cell reached":
			err = at(&c.reached, 0)
		case "cell enrolled":
			err = at(&c.enrolled, 0)
		case "cell connected":
			err = at(&c.connected, 0)
		}
		if err != nil {
			return nil, fmt.Errorf("reading Kip's log, %q: %w", strings.TrimSpace(line), err)
		}
	}
	return byPod, nil
}

// parseLine takes a line of slog's text handler apart. Of a line that is
// something else it returns what looks like fields.
func parseLine(line string) map[string]string {
	fields := map[string]string{}
	rest := strings.TrimSpace(line)
	for rest != "" {
		key, after, ok := strings.Cut(rest, "=")
		if !ok {
			break
		}
		value, _, _ := strings.Cut(after, " ")
		quoted, err := strconv.QuotedPrefix(after)
		if err == nil {
			if value, err = strconv.Unquote(quoted); err != nil {
				break
			}
			after = after[len(quoted):]
		} else {
			after = after[len(value):]
		}
		fields[key[strings.LastIndexByte(key, ' ')+1:]] = value
		rest = strings.TrimLeft(after, " ")
	}
	return fields
}
