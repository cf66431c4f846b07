package report

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRoundTrip(t *testing.T) {
	for name, want := range map[string]Report{
		"Whole": {json.RawMessage(`[{"podRef":{"name":"web"}}]`), "r{pod=\"web\"} 1\n", "a{pod=\"web\"} 1\nc{pod=\"web\"} 4\n", "b{pod=\"web\"} 2\n"},
		"Empty": {Pods: json.RawMessage(`[]`)},
	} {
		data, err := want.Encode()
		if err != nil {
			t.Fatal(err)
		}
		got, err := Decode(data)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	zip := func(text string) []byte {
		var b bytes.Buffer
		z := gzip.NewWriter(&b)
		_, _ = z.Write([]byte(text))
		_ = z.Close()
		return b.Bytes()
	}
	whole := zip("[]\n# resource\n\n# cadvisor\n\n# probes\n")
	if _, err := Decode(whole); err != nil {
		t.Fatal(err)
	}
	for name, tc := range map[string]struct {
		reason string
		data   []byte
		want   error
	}{
		"Nothing": {"nothing was sent", nil, nil},
		"Plain":   {"not compressed", []byte("[]\n# resource\n\n# cadvisor\n\n# probes\n"), nil},
		"CutOff":  {"the end is missing", whole[:len(whole)-6], nil},
		"Section": {"one section is missing", zip("[]\n# resource\n\n# probes\n"), ErrSection},
		"Order":   {"sections the other way round", zip("[]\n# cadvisor\n\n# resource\n\n# probes\n"), ErrSection},
		"Bomb":    {"some KiB that would take MiBs", zip(strings.Repeat(" ", MaxDecoded+1)), ErrTooBig},
	} {
		if _, err := Decode(tc.data); err == nil || tc.want != nil && !errors.Is(err, tc.want) {
			t.Errorf("%s (%s): %v", name, tc.reason, err)
		}
	}
}
