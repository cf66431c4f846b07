package main

import (
	"strings"
	"testing"
	"time"
)

func TestImageAims(t *testing.T) {
	starts := func(pulls ...int) (all []imageSample) {
		for _, ms := range pulls {
			all = append(all, imageSample{pull: time.Duration(ms-10) * time.Millisecond, read: 10 * time.Millisecond, network: 2e6, share: 6e6})
		}
		return all
	}
	for name, tc := range map[string]struct {
		reason           string
		registry, cache  []imageSample
		megabytes        int
		faster, ofBytes  string
		fastEnough, lean string
	}{
		"Met": {
			reason: "at the aim it is met", registry: starts(3000, 2000, 2500), cache: starts(100, 120), megabytes: 80,
			faster: "25.0", fastEnough: "met", ofBytes: "10.0 %", lean: "met",
		},
		"Missed": {
			reason: "both", registry: starts(1990), cache: starts(100), megabytes: 79,
			faster: "19.9", fastEnough: "missed", ofBytes: "10.1 %", lean: "missed",
		},
	} {
		t.Run(name, func(t *testing.T) {
			d := &document{}
			writeImageAims(d, &measuredImage{megabytes: tc.megabytes, starts: map[way][]imageSample{byRegistry: tc.registry, byCache: tc.cache}})
			var rows [][]string
			for line := range strings.Lines(d.String()) {
				var row []string
				for field := range strings.SplitSeq(strings.Trim(line, "|\n "), "|") {
					row = append(row, strings.TrimSpace(field))
				}
				rows = append(rows, row)
			}
			if fast := rows[4]; fast[2] != tc.faster || fast[3] != tc.fastEnough {
				t.Errorf("%s: %q, want %s, %s", tc.reason, fast, tc.faster, tc.fastEnough)
			}
			if bytes := rows[5]; bytes[2] != tc.ofBytes || bytes[3] != tc.lean {
				t.Errorf("%s: %q, want %s, %s", tc.reason, bytes, tc.ofBytes, tc.lean)
			}
		})
	}
}
