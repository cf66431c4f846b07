package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	dto "github.com/prometheus/client_model/go"
	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/localcluster"
)

// metrics are Kip's own, by name.
type metrics map[string]*dto.MetricFamily

// sum adds up all of a name; 0 if there is none.
func (m metrics) sum(name string) float64 {
	sum := 0.0
	for _, x := range m[name].GetMetric() {
		sum += x.GetCounter().GetValue() + x.GetGauge().GetValue()
	}
	return sum
}

// ofKip reads a path of Kip's kubelet API, by way of the API server.
func (b *bench) ofKip(ctx context.Context, path string, parameters ...string) ([]byte, error) {
	r := b.kube.CoreV1().RESTClient().Get().Resource("nodes").Name(localcluster.NodeName).SubResource("proxy").Suffix(path)
	for i := 0; i+1 < len(parameters); i += 2 {
		r = r.Param(parameters[i], parameters[i+1])
	}
	data, err := r.DoRaw(ctx)
	if err != nil {
		return nil, fmt.Errorf("asking Kip for /%s: %w", path, err)
	}
	return data, nil
}

func (b *bench) metrics(ctx context.Context) (metrics, error) {
	text, err := b.ofKip(ctx, "metrics")
	if err != nil {
		return nil, err
	}
	parser := expfmt.NewTextParser(model.UTF8Validation)
	return parser.TextToMetricFamilies(bytes.NewReader(text))
}

// profile keeps profiles of Kip, if that was asked for.
func (s *scaling) profile(ctx context.Context, size int, name string) error {
	if s.o.profiles == "" {
		return nil
	}
	if err := os.MkdirAll(s.o.profiles, 0o755); err != nil {
		return err
	}
	for kind, parameters := range map[string][]string{"heap": {"gc", "1"}, "goroutine": nil, "profile": {"seconds", "20"}} {
		data, err := s.ofKip(ctx, "debug/pprof/"+kind, parameters...)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(s.o.profiles, fmt.Sprintf("%s-%d-%s", name, size, kind)), data, 0o600); err != nil {
			return err
		}
	}
	return nil
}

// pid is the process ID of a component.
func (b *bench) pid(ctx context.Context, component string) (int, error) {
	states, err := b.Status(ctx)
	if err != nil {
		return 0, err
	}
	for _, s := range states {
		if s.Name == component && s.Running {
			return s.PID, nil
		}
	}
	return 0, errors.New(component + " does not run")
}

// ticks is how many of the kernel's ticks, in which it counts processor time,
// make a second: the same on every Linux.
const ticks = 100

// processorTime is what a process has used.
func processorTime(pid int) (time.Duration, error) {
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return 0, err
	}
	// The command's name, in brackets, may hold anything.
	fields := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:]))
	used := int64(0)
	for _, field := range fields[11:13] { // user and system
		n, err := strconv.ParseInt(field, 10, 64)
		if err != nil {
			return 0, fmt.Errorf("/proc/%d/stat: %w", pid, err)
		}
		used += n
	}
	return time.Duration(used) * time.Second / ticks, nil
}

// awaitCells waits until there are no more cells than that.
func (b *bench) awaitCells(ctx context.Context, most int) error {
	return await(ctx, fmt.Sprintf("the end of all but %d cells", most), func(ctx context.Context) (bool, error) {
		var cells v1beta1.CellList
		err := b.cells.List(ctx, &cells)
		return len(cells.Items) <= most, err
	})
}
