package podlogs

import (
	"io"
	"strings"
	"testing"
	"testing/iotest"
)

func TestFromFile(t *testing.T) {
	const a, b = "2026-11-01T12:00:00.000000001Z", "2026-11-01T12:00:01.5Z"
	long := strings.Repeat("x", 100<<10)
	for name, tc := range map[string]struct{ reason, file, want string }{
		"Lines": {
			"Both streams, in the order of the file, without their names.",
			a + " stdout F one\n" + b + " stderr F two  words\n", a + " one\n" + b + " two  words\n",
		},
		"EmptyLine": {"It has a stamp and no text.", a + " stdout F \n", a + " \n"},
		"Partial": {
			"The runtime cuts long lines; they are whole again, with the stamp of their beginning.",
			a + " stdout P one, \n" + a + " stdout P two, \n" + b + " stdout F three\n" + b + " stdout F next\n",
			a + " one, two, three\n" + b + " next\n",
		},
		"PartialAtTheEnd": {
			"A container that ends without a line break.",
			a + " stdout P the end\n", a + " the end",
		},
		"MoreTags":      {"The format foresees more tags than the first.", a + " stdout P:x one\n" + a + " stdout F:y two\n", a + " onetwo\n"},
		"LongRecord":    {"A record may be longer than the buffer.", a + " stdout F " + long + "\n" + b + " stdout F next\n", a + " " + long + "\n" + b + " next\n"},
		"LongPartial":   {"So may a part.", a + " stdout P " + long + "\n" + b + " stdout F end\n", a + " " + long + "end\n"},
		"NoBreakAtEnd":  {"A file that ends in a record.", a + " stdout F one", a + " one"},
		"OtherForm":     {"What is no record passes.", "{\"log\":\"one\"}\n\n" + a + " elsewhere F x\nnow stdout F x\n", "{\"log\":\"one\"}\n\n" + a + " elsewhere F x\nnow stdout F x\n"},
		"Empty":         {"Nothing was written.", "", ""},
		"OnlyTheHeader": {"The text is missing, and the last blank.", a + " stdout F\n", a + " stdout F\n"},
	} {
		t.Run(name, func(t *testing.T) {
			for way, in := range map[string]io.Reader{
				"at once": strings.NewReader(tc.file), "byte by byte": iotest.OneByteReader(strings.NewReader(tc.file)),
			} {
				got, err := io.ReadAll(FromFile(io.NopCloser(in)))
				if err != nil || string(got) != tc.want {
					t.Errorf("%s, read %s\n%.200q (%v)\nwant\n%.200q", tc.reason, way, got, err, tc.want)
				}
			}
		})
	}
}

func TestFromFileTellsOfErrors(t *testing.T) {
	got, err := io.ReadAll(FromFile(io.NopCloser(iotest.TimeoutReader(iotest.OneByteReader(strings.NewReader("one"))))))
	if err == nil {
		t.Errorf("read %q without an error", got)
	}
}

func FuzzFromFile(f *testing.F) {
	f.Add("2026-11-01T12:00:00Z stdout P one\n2026-11-01T12:00:00Z stdout F two\n")
	f.Fuzz(func(t *testing.T, file string) {
		got, err := io.ReadAll(FromFile(io.NopCloser(strings.NewReader(file))))
		if err != nil || len(got) > len(file) {
			t.Errorf("%d bytes became %d (%v)", len(file), len(got), err)
		}
	})
}
