package aws

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/metering"
)

// newMarketplace answers every request with a status and a body, and notes what
// was asked.
func newMarketplace(t *testing.T, status int, answer string) (*Marketplace, *[]string) {
	t.Helper()
	var asked []string
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil || !strings.Contains(r.Header.Get("Authorization"), "/us-west-2/aws-marketplace/aws4_request") {
			t.Errorf("%v, signed %q", err, r.Header.Get("Authorization"))
		}
		asked = append(asked, r.Header.Get("X-Amz-Target")+" "+string(body))
		w.Header().Set("Content-Type", "application/x-amz-json-1.1")
		w.WriteHeader(status)
		_, _ = io.WriteString(w, answer)
	}))
	t.Cleanup(server.Close)
	t.Setenv("AWS_ENDPOINT_URL_MARKETPLACE_METERING", server.URL)
	m, err := NewMarketplace(t.Context(), Config{Region: "us-west-2", AccessKeyID: testKey, SecretAccessKey: testSecret}, "product", 3, "CellHours")
	if err != nil {
		t.Fatal(err)
	}
	return m, &asked
}

func TestMarketplaceRequests(t *testing.T) {
	m, asked := newMarketplace(t, http.StatusOK, `{"MeteringRecordId":"1","Signature":"x"}`)
	if err := m.Register(t.Context()); err != nil {
		t.Fatal(err)
	}
	record := metering.Record{Hour: time.Date(2026, 1, 2, 12, 0, 0, 0, time.UTC), CellHours: 7}
	if err := m.Meter(t.Context(), record); err != nil {
		t.Fatal(err)
	}
	if n := len(*asked); n != 2 {
		t.Fatalf("%d requests: %q", n, *asked)
	}
	for i, want := range []struct {
		target string
		body   map[string]any
	}{
		{"AWSMPMeteringService.RegisterUsage", map[string]any{"ProductCode": "product", "PublicKeyVersion": 3.0}},
		{"AWSMPMeteringService.MeterUsage", map[string]any{"ProductCode": "product", "UsageDimension": "CellHours", "UsageQuantity": 7.0,
			"Timestamp": float64(record.Hour.Add(time.Hour - time.Second).Unix())}},
	} {
		target, body, _ := strings.Cut((*asked)[i], " ")
		got := map[string]any{}
		if err := json.Unmarshal([]byte(body), &got); err != nil {
			t.Fatal(err)
		}
		// A field of its own that later versions of the SDK may set.
		delete(got, "ClientToken")
		if target != want.target {
			t.Errorf("asked for %s, want %s", target, want.target)
		}
		if diff := cmp.Diff(want.body, got); diff != "" {
			t.Error(diff)
		}
	}
}

func TestMarketplaceAnswers(t *testing.T) {
	for code, tc := range map[string]struct {
		reason string
		status int
		is     error
		kind   cloudprovider.Kind
	}{
		"CustomerNotEntitledException":   {reason: "a refusal", status: 400, kind: cloudprovider.Denied},
		"AccessDeniedException":          {reason: "Kip's role lacks the right", status: 400, kind: cloudprovider.Denied},
		"InvalidProductCodeException":    {reason: "a wrong configuration", status: 400, kind: cloudprovider.InvalidConfiguration},
		"InvalidUsageDimensionException": {reason: "a wrong configuration", status: 400, kind: cloudprovider.InvalidConfiguration},
		"PlatformNotSupportedException":  {reason: "not where the product may run", status: 400, kind: cloudprovider.Unsupported},
		"ThrottlingException":            {reason: "later", status: 400, kind: cloudprovider.Throttled},
		"InternalServiceErrorException":  {reason: "later", status: 500, kind: cloudprovider.Transient},
		"TimestampOutOfBoundsException":  {reason: "the hour is over for good", status: 400, is: metering.ErrTooOld},
		"DuplicateRequestException":      {reason: "there is another record", status: 400, is: metering.ErrCounted},
	} {
		t.Run(code, func(t *testing.T) {
			m, _ := newMarketplace(t, tc.status, `{"__type":"com.amazonaws.marketplace#`+code+`","message":"no"}`)
			err := m.Meter(t.Context(), metering.Record{Hour: time.Unix(0, 0)})
			if tc.is != nil && !errors.Is(err, tc.is) || tc.is == nil && cloudprovider.KindOf(err) != tc.kind {
				t.Errorf("%s: got %v (%s)", tc.reason, err, cloudprovider.KindOf(err))
			}
			if tc.is == nil && !strings.Contains(err.Error(), "aws-marketplace:MeterUsage") {
				t.Errorf("the error does not name the action: %v", err)
			}
		})
	}
}
