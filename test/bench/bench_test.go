package main

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

func TestPercentile(t *testing.T) {
	ms := func(values ...int) (d []time.Duration) {
		for _, v := range values {
			d = append(d, time.Duration(v)*time.Millisecond)
		}
		return d
	}
	tests := map[string]struct {
		reason string
		times  []time.Duration
		p      float64
		want   time.Duration
	}{
		"Nothing":  {"a phase that was not measured must not stop the report", nil, 99, 0},
		"One":      {"one pod is every percentile", ms(7), 50, 7 * time.Millisecond},
		"Median":   {"the lower of two middles: a time that was measured", ms(4, 1, 3, 2), 50, 2 * time.Millisecond},
		"OfThirty": {"of thirty p99 is the slowest", ms(1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30), 99, 30 * time.Millisecond},
	}
	for name, tt := range tests {
		t.Run(name, func(t *testing.T) {
			if got := percentile(tt.times, tt.p); got != tt.want {
				t.Errorf("%s: %v, want %v", tt.reason, got, tt.want)
			}
		})
	}
}

func TestParseKipLog(t *testing.T) {
	log := `--- kip started 2026-01-02T03:04:00Z
time=2026-01-02T03:04:05.000Z level=INFO msg="cell made" pod=bench/a cell=a-1 attempt=0
time=2026-01-02T03:04:05.020Z level=INFO msg="instance launched" cell=a-1 pod=bench/a type=t3a.nano instance=i-1 address=10.0.0.1 took=6ms
time=2026-01-02T03:04:05.040Z level=WARN msg="launch refused" cell=b-1 err="no \"capacity\" = none"
time=2026-01-02T03:04:05.100Z level=INFO msg="cell reached" cell=a-1 instance=i-1 addr=10.0.0.1:6421 after=80ms
time=2026-01-02T03:04:05.120Z level=INFO msg="cell enrolled" cell=a-1 took=20ms
time=2026-01-02T03:04:05.125Z level=INFO msg="cell connected" cell=a-1 after=105ms
time=2026-01-02T03:04:09.125Z level=INFO msg="cell connected" cell=a-1 after=1ms
time=2026-01-02T03:04:05.020Z level=INFO msg="instance launched" cell=standby-1 type=t3a.nano instance=i-2 address=10.0.0.3 took=6ms
time=2026-01-02T03:04:09.200Z level=INFO msg="standby cell taken" pod=bench/c cell=standby-1 instance=i-2 attempt=0
`
	got, err := parseKipLog(log)
	if err != nil {
		t.Fatal(err)
	}
	at := func(ms int) time.Time { return time.Date(2026, 1, 2, 3, 4, 5, ms*1e6, time.UTC) }
	want := map[string]*cellLog{"a": {
		cell: "a-1", pod: "a", instance: "i-1", address: "10.0.0.1",
		written: at(0), sent: at(14), launched: at(20), reached: at(100), enrolled: at(120),
		connected: at(125), // the first time counts
	}, "c": {
		cell: "standby-1", pod: "c", instance: "i-2", address: "10.0.0.3",
		sent: at(14), launched: at(20), taken: at(4200),
	}}
	if diff := cmp.Diff(want, got, cmp.AllowUnexported(cellLog{})); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
	if _, err := parseKipLog("time=now msg=\"cell made\" pod=bench/a cell=a-1\n"); err == nil {
		t.Error("a line without a time is no error")
	}
}

func TestTable(t *testing.T) {
	d := &document{}
	d.table([]string{"step", "p50"}, [][]string{{"bound → sent", "20"}, {"x", ""}})
	want := `| step         | p50 |
| ------------ | --: |
| bound → sent |  20 |
| x            |     |

`
	if diff := cmp.Diff(want, d.String()); diff != "" {
		t.Errorf("(-want +got)\n%s", diff)
	}
}

func TestChangesThatArrive(t *testing.T) {
	file := filepath.Join(t.TempDir(), "value")
	began := time.Now()
	p := &mounted{name: "config-0", file: file}
	for name, tc := range map[string]struct {
		reason, content string
		sent            int
		want            int
	}{
		"Nothing": {"the file need not even be there", "", 0, 0},
		"Before":  {"the old content", "0", 1, 0},
		"One":     {"the change is there", "1", 1, 1},
		"Passed":  {"one that was overtaken arrived with the next", "2", 2, 2},
	} {
		*p = mounted{name: p.name, file: file}
		for range tc.sent {
			p.sent = append(p.sent, began)
		}
		if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, want := range []int{tc.want, 0} { // and each is told of once
			if took, err := p.look(); err != nil || len(took) != want {
				t.Errorf("%s (%s): %v, %v", name, tc.reason, took, err)
			}
		}
	}
	if err := os.WriteFile(file, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (&mounted{file: file, sent: []time.Time{began}}).look(); err == nil {
		t.Error("a value that nobody wrote is no error")
	}
}
