package instancetype

import (
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

func TestEmbedded(t *testing.T) {
	c, err := Embedded()
	if err != nil {
		t.Fatal(err)
	}
	if n := len(c.TypeNames()); n < 1000 {
		t.Errorf("%d instance types", n)
	}
	for _, name := range c.RegionNames() {
		r, err := c.Region(name)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if err := r.Offerings(needs("1", "1Gi"), Options{Limit: 1}).Err(); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range c.TypeNames() {
		it, _ := c.Type(name)
		if it.Burstable && (it.BaselineVCPUs <= 0 || it.BaselineVCPUs > float64(it.VCPUs)) {
			t.Errorf("%s: baseline of %v vCPUs of %d", name, it.BaselineVCPUs, it.VCPUs)
		}
		if it.GPU != nil && (it.GPU.Count < 1 || it.GPU.Name == "") {
			t.Errorf("%s: GPU %+v", name, *it.GPU)
		}
	}
	var unknown *UnknownRegionError
	_, err = c.Region("us-wst-2")
	if !errors.As(err, &unknown) || !strings.Contains(err.Error(), "did you mean us-west-2") {
		t.Errorf("unknown region: %v", err)
	}
}

func TestLoad(t *testing.T) {
	const good = `{"types": {"x1.small": {"vcpus": 2, "memoryMiB": 2048, "arch": "amd64", "hypervisor": "nitro", "onDemand": true}},
		"regions": {"here": {"zones": ["a", "b"], "types": {"x1.small": [0.01, 3]}}}}`
	cases := map[string]struct {
		reason  string
		content string
		gzip    bool
		want    string // part of the error; empty if it loads
	}{
		"plain":            {reason: "a file by hand", content: good},
		"compressed":       {reason: "a file by a script", content: good, gzip: true},
		"not JSON":         {reason: "the file is named", content: "types: {}", want: "catalogue"},
		"unknown field":    {reason: "a misspelt field would change the choice silently", content: strings.Replace(good, "memoryMiB", "memoryMB", 1), want: `"memoryMB"`},
		"no size":          {reason: "a type without size fits everything", content: strings.Replace(good, `"vcpus": 2`, `"vcpus": 0`, 1), want: "x1.small: vcpus"},
		"unknown type":     {reason: "a price for nothing", content: strings.Replace(good, `{"x1.small": [`, `{"x1.large": [`, 1), want: "x1.large is not among the types"},
		"impossible zones": {reason: "the third of two zones", content: strings.Replace(good, "0.01, 3", "0.01, 4", 1), want: "impossible row"},
		"unsorted zones":   {reason: "bits would mean something else", content: strings.Replace(good, `"a", "b"`, `"b", "a"`, 1), want: "sorted"},
	}
	for name, c := range cases {
		t.Run(name, func(t *testing.T) {
			content := []byte(c.content)
			if c.gzip {
				var b bytes.Buffer
				z := gzip.NewWriter(&b)
				if _, err := z.Write(content); err != nil {
					t.Fatal(err)
				}
				if err := z.Close(); err != nil {
					t.Fatal(err)
				}
				content = b.Bytes()
			}
			file := filepath.Join(t.TempDir(), "catalogue")
			if err := os.WriteFile(file, content, 0o600); err != nil {
				t.Fatal(err)
			}
			catalogue, err := Load(file)
			if c.want != "" {
				if err == nil || !strings.Contains(err.Error(), c.want) {
					t.Fatalf("%s: got error %v, want one with %q", c.reason, err, c.want)
				}
				return
			}
			if err != nil {
				t.Fatalf("%s: %v", c.reason, err)
			}
			r, err := catalogue.Region("here")
			if err != nil {
				t.Fatal(err)
			}
			offerings := r.Offerings(needs("1", "1Gi"), Options{}).Offerings
			if len(offerings) != 2 || offerings[1].Zone != "b" {
				t.Errorf("offerings %+v", offerings)
			}
		})
	}
	if _, err := Load(filepath.Join(t.TempDir(), "none")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("missing file: %v", err)
	}
}

// BenchmarkDecode is what a start of Kip pays: the types and one region.
func BenchmarkDecode(b *testing.B) {
	for b.Loop() {
		types, err := readEmbedded("data/types.json.gz")
		if err != nil {
			b.Fatal(err)
		}
		c, err := newCatalogue(types, map[string]func() ([]byte, error){
			"us-east-1": func() ([]byte, error) { return readEmbedded("data/regions/us-east-1.json.gz") },
		})
		if err != nil {
			b.Fatal(err)
		}
		if _, err := c.Region("us-east-1"); err != nil {
			b.Fatal(err)
		}
	}
}

func TestClosest(t *testing.T) {
	known := []string{"m5.large", "m6i.large", "m6g.large", "c5.large", "t3.nano"}
	for name, want := range map[string][]string{
		"m6.large": {"m5.large", "m6g.large"},
		"T3.NANO":  {"t3.nano"},
		"zzzzzzzz": nil,
	} {
		if got := closest(name, known, 2); !slices.Equal(got, want) {
			t.Errorf("closest to %s: %v, want %v", name, got, want)
		}
	}
}
