package signature

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

var now = time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)

const body = "Action=DescribeVpcs&Version=2016-11-15"

// signed is a request as the SDK signs it.
func signed(t *testing.T, at time.Time, service, region string) *http.Request {
	t.Helper()
	r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "http://127.0.0.1:4566/", strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(body))
	key := aws.Credentials{AccessKeyID: "AKIA", SecretAccessKey: "secret"}
	if err := v4.NewSigner().SignHTTP(t.Context(), key, r, hex.EncodeToString(sum[:]), service, region, at); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestVerify(t *testing.T) {
	authorization := func(old, replacement string) func(*http.Request) string {
		return func(r *http.Request) string {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, replacement, 1))
			return body
		}
	}
	cases := map[string]struct {
		reason string
		at     time.Time
		change func(*http.Request) (body string)
		want   error
	}{
		"good":      {"as signed", now, func(*http.Request) string { return body }, nil},
		"late":      {"within the skew", now.Add(-MaxSkew), func(*http.Request) string { return body }, nil},
		"too late":  {"a recorded request", now.Add(-MaxSkew - time.Second), func(*http.Request) string { return body }, ErrExpired},
		"too early": {"the client's clock is wrong", now.Add(time.Hour), func(*http.Request) string { return body }, ErrExpired},
		"header":    {"proxies add headers", now, func(r *http.Request) string { r.Header.Set("Via", "1.1 proxy"); return body }, nil},
		"body":      {"another body", now, func(*http.Request) string { return body + "&x=1" }, ErrMismatch},
		"host":      {"for another host", now, func(r *http.Request) string { r.Host = "elsewhere"; return body }, ErrMismatch},
		"method":    {"another method", now, func(r *http.Request) string { r.Method = http.MethodPut; return body }, ErrMismatch},
		"query":     {"another query", now, func(r *http.Request) string { r.URL.RawQuery = "a=b"; return body }, ErrMismatch},
		"unsigned":  {"no signature", now, func(r *http.Request) string { r.Header.Del("Authorization"); return body }, ErrMissing},
		"key":       {"nobody has this key", now, authorization("Credential=AKIA", "Credential=AKIB"), ErrUnknownKey},
		"date":      {"the scope's day is another", now, authorization("/20260102/", "/20260103/"), ErrIncomplete},
		"unhosted":  {"good for any host", now, authorization("host;", ""), ErrIncomplete},
		"scheme":    {"another algorithm", now, authorization("AWS4-HMAC-SHA256", "AWS4-HMAC-SHA512"), ErrIncomplete},
		"token":     {"nobody signed it", now, func(r *http.Request) string { r.Header.Set(HeaderToken, "good"); return body }, ErrIncomplete},
		"garbage":   {"no header at all", now, func(r *http.Request) string { r.Header.Set("Authorization", algorithm+" x"); return body }, ErrIncomplete},
	}
	v := &Verifier{
		Serves: func(service, region string) bool { return service == "ec2" && region == "us-west-2" },
		Secret: func(accessKeyID, token string) (string, error) {
			if accessKeyID != "AKIA" {
				return "", ErrUnknownKey
			}
			if token != "" && token != "good" {
				return "", ErrToken
			}
			return "secret", nil
		},
		Now: func() time.Time { return now },
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			r := signed(t, tc.at, "ec2", "us-west-2")
			sent := tc.change(r)
			got, err := v.Verify(context.Background(), r, []byte(sent))
			if !errors.Is(err, tc.want) || tc.want == nil && (err != nil || got.AccessKeyID != "AKIA" || got.Service != "ec2") {
				t.Errorf("%s: got %+v, %v, want %v", tc.reason, got, err, tc.want)
			}
		})
	}
	for _, scope := range [][2]string{{"s3", "us-west-2"}, {"ec2", "us-east-1"}} {
		if _, err := v.Verify(t.Context(), signed(t, now, scope[0], scope[1]), []byte(body)); !errors.Is(err, ErrIncomplete) {
			t.Errorf("signed for %v: %v", scope, err)
		}
	}
}

// TestVerifyToken signs with the credentials of a session, whose token is part of what is signed.
func TestVerifyToken(t *testing.T) {
	r := signed(t, now, "ec2", "us-west-2")
	sum := sha256.Sum256([]byte(body))
	session := aws.Credentials{AccessKeyID: "ASIA", SecretAccessKey: "secret", SessionToken: "token"}
	if err := v4.NewSigner().SignHTTP(t.Context(), session, r, hex.EncodeToString(sum[:]), "ec2", "us-west-2", now); err != nil {
		t.Fatal(err)
	}
	v := &Verifier{
		Serves: func(string, string) bool { return true }, Now: func() time.Time { return now },
		Secret: func(accessKeyID, token string) (string, error) {
			if accessKeyID != "ASIA" || token != "token" {
				return "", ErrToken
			}
			return "secret", nil
		},
	}
	if got, err := v.Verify(t.Context(), r, []byte(body)); err != nil || got.Token != "token" {
		t.Errorf("got %+v, %v", got, err)
	}
	r.Header.Set(HeaderToken, "other")
	if _, err := v.Verify(t.Context(), r, []byte(body)); !errors.Is(err, ErrToken) {
		t.Errorf("with another token: %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("AWS4-HMAC-SHA256 Credential=a/20260102/us-west-2/ec2/aws4_request, SignedHeaders=host;x-amz-date, Signature=00")
	f.Fuzz(func(t *testing.T, header string) {
		c, err := parse(header)
		if err == nil && (c.signature == "" || bytes.ContainsRune([]byte(c.date), '/')) {
			t.Errorf("%q: %+v", header, c)
		}
	})
}

func TestReadCredentials(t *testing.T) {
	for name, tc := range map[string]struct {
		content string
		ok      bool
	}{
		"good":  {`{"AKIA": "secret"}`, true},
		"empty": {`{"AKIA": ""}`, false},
		"other": {`["AKIA"]`, false},
	} {
		file := filepath.Join(t.TempDir(), "credentials.json")
		if err := os.WriteFile(file, []byte(tc.content), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadCredentials(file); (err == nil) != tc.ok {
			t.Errorf("%s: %v", name, err)
		}
	}
}
