package podlogs

import (
	"bufio"
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"strconv"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Options select what of a log is read, as in the kubelet's containerLogs.
type Options struct {
	Previous   bool
	Timestamps bool
	// Since drops older lines; the zero time keeps all.
	Since time.Time
	// Tail keeps that many lines of the end; negative keeps all.
	Tail int
	// LimitBytes ends the answer after that many bytes; 0 means no limit.
	LimitBytes int64
}

// ParseOptions reads the query of a containerLogs request. Follow is ignored:
// a kept log is complete.
func ParseOptions(q url.Values, now time.Time) (Options, error) {
	o := Options{Tail: -1}
	var err error
	boolean := func(key string, into *bool) {
		if v := q.Get(key); v != "" && err == nil {
			if *into, err = strconv.ParseBool(v); err != nil {
				err = fmt.Errorf("%s=%q is not a boolean", key, v)
			}
		}
	}
	number := func(key string, minimum int64, set func(int64)) {
		if v := q.Get(key); v != "" && err == nil {
			n, parseErr := strconv.ParseInt(v, 10, 64)
			if parseErr != nil || n < minimum {
				err = fmt.Errorf("%s=%q is not a number of at least %d", key, v, minimum)
				return
			}
			set(n)
		}
	}
	boolean("previous", &o.Previous)
	boolean("timestamps", &o.Timestamps)
	number("tailLines", 0, func(n int64) { o.Tail = int(n) })
	number("limitBytes", 1, func(n int64) { o.LimitBytes = n })
	number("sinceSeconds", 1, func(n int64) { o.Since = now.Add(-time.Duration(n) * time.Second) })
	if v := q.Get("sinceTime"); v != "" && err == nil {
		if q.Get("sinceSeconds") != "" {
			return o, errors.New("sinceSeconds and sinceTime exclude each other")
		}
		if o.Since, err = time.Parse(time.RFC3339, v); err != nil {
			err = fmt.Errorf("sinceTime=%q is not an RFC 3339 time", v)
		}
	}
	return o, err
}

// Read writes a kept log to w. The error is fs.ErrNotExist when the pod or
// that log of it is not kept.
func (s *Store) Read(w io.Writer, uid types.UID, container string, o Options) error {
	paths, err := s.chunks(uid, container, o.Previous)
	if err != nil {
		return err
	}
	out := &limitedWriter{w: w, left: o.LimitBytes, unlimited: o.LimitBytes == 0}
	emit := func(line []byte) error {
		if !o.Timestamps {
			_, line = cutStamp(line)
		}
		_, err := out.Write(line)
		return err
	}
	var end *ring
	if o.Tail >= 0 {
		end = &ring{max: o.Tail}
	}
	for _, path := range paths {
		err := eachLine(path, func(line []byte) error {
			if !o.Since.IsZero() {
				if stamp, _ := cutStamp(line); !stamp.IsZero() && stamp.Before(o.Since) {
					return nil
				}
			}
			if end != nil {
				end.add(line)
				return nil
			}
			return emit(line)
		})
		if errors.Is(err, errLimit) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("reading kept log %s: %w", path, err)
		}
	}
	if end != nil {
		if err := end.each(emit); err != nil && !errors.Is(err, errLimit) {
			return err
		}
	}
	return nil
}

func eachLine(path string, do func([]byte) error) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	defer f.Close()
	z, err := gzip.NewReader(f)
	if err != nil {
		return err
	}
	lines := bufio.NewReaderSize(z, 64<<10)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			if err := do(line); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// cutStamp splits a line into its time stamp and its text. A line without a
// stamp, the rest of one that the runtime cut, is all text.
func cutStamp(line []byte) (time.Time, []byte) {
	i := bytes.IndexByte(line, ' ')
	if i < 0 || i > len(time.RFC3339Nano)+2 {
		return time.Time{}, line
	}
	stamp, err := time.Parse(time.RFC3339Nano, string(line[:i]))
	if err != nil {
		return time.Time{}, line
	}
	return stamp, line[i+1:]
}

// ring keeps the last max lines.
type ring struct {
	max   int
	lines [][]byte
	next  int
}

func (r *ring) add(line []byte) {
	switch {
	case r.max == 0:
	case len(r.lines) < r.max:
		r.lines = append(r.lines, line)
	default:
		r.lines[r.next] = line
		r.next = (r.next + 1) % r.max
	}
}

func (r *ring) each(do func([]byte) error) error {
	for i := range r.lines {
		if err := do(r.lines[(r.next+i)%len(r.lines)]); err != nil {
			return err
		}
	}
	return nil
}

var errLimit = errors.New("limitBytes reached")

type limitedWriter struct {
	w         io.Writer
	left      int64
	unlimited bool
}

func (l *limitedWriter) Write(p []byte) (int, error) {
	if l.unlimited {
		return l.w.Write(p)
	}
	cut := int64(len(p)) >= l.left
	if cut {
		p = p[:l.left]
	}
	n, err := l.w.Write(p)
	l.left -= int64(n)
	if err == nil && cut {
		err = errLimit
	}
	return n, err
}
