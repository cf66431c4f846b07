package query

import (
	"bytes"
	"errors"
	"net/url"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

type testRequest struct {
	common
	ID      string `query:"Id,required"`
	Count   *int
	Flag    bool
	At      time.Time
	Names   []string `query:"Name"`
	Nested  testNested
	Maybe   *testNested
	Filters []testFilter `query:"Filter"`
}

type common struct{ DryRun bool }

type testNested struct{ A, B string }

type testFilter struct {
	Name   string   `query:",required"`
	Values []string `query:"Value"`
}

func TestDecode(t *testing.T) {
	three := 3
	cases := map[string]struct {
		reason string
		form   string
		want   testRequest
		code   string // of the error
	}{
		"scalars": {"each kind", "Id=x&Count=3&Flag=true&DryRun=True&At=2026-01-02T03:04:05Z",
			testRequest{ID: "x", Count: &three, Flag: true, common: common{DryRun: true}, At: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)}, ""},
		"absent":       {"pointers tell", "Id=x", testRequest{ID: "x"}, ""},
		"action":       {"belongs to all requests", "Action=A&Version=V&Id=x", testRequest{ID: "x"}, ""},
		"list":         {"by number, gaps are fine", "Id=x&Name.10=c&Name.2=b&Name.1=a", testRequest{ID: "x", Names: []string{"a", "b", "c"}}, ""},
		"nested":       {"dots", "Id=x&Nested.A=1&Maybe.B=2", testRequest{ID: "x", Nested: testNested{A: "1"}, Maybe: &testNested{B: "2"}}, ""},
		"list in list": {"filters", "Id=x&Filter.1.Name=n&Filter.1.Value.1=v", testRequest{ID: "x", Filters: []testFilter{{"n", []string{"v"}}}}, ""},
		"missing":      {"required", "Flag=true", testRequest{}, "MissingParameter"},
		"missing part": {"required in what is there", "Id=x&Filter.1.Value.1=v", testRequest{}, "MissingParameter"},
		"unknown":      {"never ignored", "Id=x&Colour=red", testRequest{}, "UnknownParameter"},
		"unknown part": {"never ignored", "Id=x&Nested.C=1", testRequest{}, "UnknownParameter"},
		"list as one":  {"lists have numbers", "Id=x&Name=a", testRequest{}, "UnknownParameter"},
		"zero":         {"numbers start at 1", "Id=x&Name.0=a", testRequest{}, "UnknownParameter"},
		"no integer":   {"not a number", "Id=x&Count=many", testRequest{}, "InvalidParameterValue"},
		"too large":    {"more than EC2's integers", "Id=x&Count=3000000000", testRequest{}, "InvalidParameterValue"},
		"no boolean":   {"not a truth value", "Id=x&Flag=maybe", testRequest{}, "InvalidParameterValue"},
		"no time":      {"not a time", "Id=x&At=noon", testRequest{}, "InvalidParameterValue"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			form, err := url.ParseQuery(tc.form)
			if err != nil {
				t.Fatal(err)
			}
			var got testRequest
			err = Decode(form, &got)
			var refused *Error
			if errors.As(err, &refused) != (tc.code != "") || refused != nil && refused.Code != tc.code {
				t.Fatalf("%s: got %v, want %q", tc.reason, err, tc.code)
			}
			if err != nil {
				return
			}
			if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(testRequest{})); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	f.Add("Id=x&Filter.1.Name=n&Filter.1.Value.1=v&Nested.A=1")
	f.Add("Name.99999999999999999999=x&Name.-1=&Name..=")
	f.Fuzz(func(t *testing.T, text string) {
		form, err := url.ParseQuery(text)
		if err != nil {
			return
		}
		var got testRequest
		var refused *Error
		if err := Decode(form, &got); err != nil && !errors.As(err, &refused) {
			t.Errorf("%q: %v is no answer", text, err)
		}
	})
}

type testAnswer struct {
	Answer
	Time  Time        `xml:"time"`
	Items Set[string] `xml:"itemSet"`
	None  Set[string] `xml:"noneSet"`
	Flag  *bool       `xml:"flag"`
}

func TestEncode(t *testing.T) {
	var got bytes.Buffer
	answer := &testAnswer{Time: Time(time.Date(2026, 1, 2, 4, 4, 5, 6e6, time.FixedZone("", 3600))), Items: SetOf("a", "<b>")}
	if err := EncodeAnswer(&got, "DoIt", "r-1", answer); err != nil {
		t.Fatal(err)
	}
	want := `<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
		`<DoItResponse xmlns="http://ec2.amazonaws.com/doc/2016-11-15/"><requestId>r-1</requestId>` +
		`<time>2026-01-02T03:04:05.006Z</time><itemSet><item>a</item><item>&lt;b&gt;</item></itemSet><noneSet></noneSet></DoItResponse>`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("answer (-want +got):\n%s", diff)
	}
	got.Reset()
	if err := EncodeError(&got, "r-2", Errorf("InvalidThing", "no %s", "thing")); err != nil {
		t.Fatal(err)
	}
	want = `<?xml version="1.0" encoding="UTF-8"?>` + "\n" +
		`<Response><Errors><Error><Code>InvalidThing</Code><Message>no thing</Message></Error></Errors><RequestID>r-2</RequestID></Response>`
	if diff := cmp.Diff(want, got.String()); diff != "" {
		t.Errorf("error (-want +got):\n%s", diff)
	}
}
