package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"slices"
	"strings"
)

// requests are how many each pod took, by who asked ("Kip", or "cells" for
// what Kip passed on) and by verb and resource.
type requests map[string]map[string]float64

// writes is how many changed something.
func (r requests) writes(who string) float64 {
	sum := 0.0
	for what, n := range r[who] {
		verb, _, _ := strings.Cut(what, " ")
		if slices.Contains([]string{"create", "update", "patch", "delete"}, verb) && !isReview(what) {
			sum += n
		}
	}
	return sum
}

// isReview: to ask whether somebody may do something is a create that makes
// nothing.
func isReview(what string) bool { return strings.HasSuffix(what, "reviews") }

// auditOffset is where the API server's notes end now.
func (b *bench) auditOffset() (int64, error) {
	info, err := os.Stat(b.AuditPath())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

// audited counts the requests since an offset.
func (b *bench) audited(offset int64, pods int) (requests, error) {
	f, err := os.Open(b.AuditPath())
	if err != nil {
		return nil, err
	}
	defer f.Close()
	if _, err := f.Seek(offset, io.SeekStart); err != nil {
		return nil, err
	}
	all := requests{"Kip": {}, "cells": {}}
	lines := bufio.NewScanner(f)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		var note struct {
			Verb             string
			ImpersonatedUser *struct{}
			ObjectRef        *struct{ Resource, Subresource, APIGroup string }
		}
		if err := json.Unmarshal(lines.Bytes(), &note); err != nil {
			return nil, fmt.Errorf("reading the API server's notes: %w", err)
		}
		if note.ObjectRef == nil {
			continue
		}
		who, what := "Kip", note.Verb+" "+note.ObjectRef.Resource
		if note.ImpersonatedUser != nil {
			who = "cells"
		}
		if note.ObjectRef.Subresource != "" {
			what += "/" + note.ObjectRef.Subresource
		}
		all[who][what] += 1 / float64(max(pods, 1))
	}
	return all, lines.Err()
}
