// Package signature checks that a request was signed with a known access key, by AWS's Signature Version 4.
//
// It holds no cryptography of its own: the request is signed once more with the AWS SDK's signer, and the two
// signatures are compared.
package signature

import (
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
)

// MaxSkew is how far a request's time may be from the server's.
const MaxSkew = 5 * time.Minute

// The reasons for which a request is not believed. Errors of Verify wrap one of them.
var (
	// ErrMissing means the request is not signed.
	ErrMissing = errors.New("the request is not signed")
	// ErrIncomplete means that the signature lacks something or names another service or region.
	ErrIncomplete = errors.New("the signature is incomplete")
	// ErrUnknownKey means that nobody knows the access key.
	ErrUnknownKey = errors.New("unknown access key")
	// ErrMismatch means that the signature is not the one the access key's secret gives for this request.
	ErrMismatch = errors.New("the signature does not match")
	// ErrExpired means that the request's time is too far from the server's.
	ErrExpired = errors.New("the request's time is too far from the server's")
)

const algorithm = "AWS4-HMAC-SHA256"

// Verifier checks signatures for one service in one region.
type Verifier struct {
	// Service is the service's signing name, such as ec2.
	Service string
	// Region is the region that requests must be signed for.
	Region string
	// Secret returns the secret key that belongs to an access key.
	Secret func(accessKeyID string) (secret string, ok bool)
	// Now is the server's time.
	Now func() time.Time
}

// Verify checks a request with the body given. It returns the access key that signed it, or an error that wraps one of
// the package's. The request is not changed.
func (v *Verifier) Verify(ctx context.Context, r *http.Request, body []byte) (accessKeyID string, err error) {
	claim, err := parse(r.Header.Get("Authorization"))
	if err != nil {
		return "", err
	}
	if claim.service != v.Service || claim.region != v.Region {
		return "", fmt.Errorf("%w: it is for service %q in region %q, this is %q in %q",
			ErrIncomplete, claim.service, claim.region, v.Service, v.Region)
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || at.Format("20060102") != claim.date {
		return "", fmt.Errorf("%w: X-Amz-Date is missing, malformed or not of the credential's day", ErrIncomplete)
	}
	if skew := v.Now().Sub(at).Abs(); skew > MaxSkew {
		return "", fmt.Errorf("%w: by %s", ErrExpired, skew.Round(time.Second))
	}
	secret, ok := v.Secret(claim.accessKeyID)
	if !ok {
		return "", fmt.Errorf("%w %q", ErrUnknownKey, claim.accessKeyID)
	}
	want, err := v.sign(ctx, r, body, claim, secret, at)
	if err != nil {
		return "", err
	}
	if !hmac.Equal([]byte(want), []byte(claim.signature)) {
		return "", ErrMismatch
	}
	return claim.accessKeyID, nil
}

// sign returns the signature that the request should have.
func (v *Verifier) sign(ctx context.Context, r *http.Request, body []byte, c claim, secret string, at time.Time) (string, error) {
	again := r.Clone(ctx)
	// Only what was signed may be signed: proxies and libraries add headers of their own.
	again.Header = http.Header{}
	for _, name := range c.signedHeaders {
		if values := r.Header.Values(name); len(values) > 0 {
			again.Header[http.CanonicalHeaderKey(name)] = slices.Clone(values)
		}
	}
	if !slices.Contains(c.signedHeaders, "content-length") {
		again.ContentLength = 0
	}
	sum := sha256.Sum256(body)
	credentials := aws.Credentials{AccessKeyID: c.accessKeyID, SecretAccessKey: secret}
	err := v4.NewSigner().SignHTTP(ctx, credentials, again, hex.EncodeToString(sum[:]), v.Service, v.Region, at)
	if err != nil {
		return "", fmt.Errorf("computing the signature: %w", err)
	}
	signed, err := parse(again.Header.Get("Authorization"))
	if err != nil {
		return "", fmt.Errorf("computing the signature: %w", err)
	}
	return signed.signature, nil
}

// claim is what an Authorization header says.
type claim struct {
	accessKeyID, date, region, service string
	signedHeaders                      []string
	signature                          string
}

// parse reads an Authorization header.
func parse(header string) (claim, error) {
	if header == "" {
		return claim{}, ErrMissing
	}
	rest, ok := strings.CutPrefix(header, algorithm+" ")
	if !ok {
		return claim{}, fmt.Errorf("%w: only %s is understood", ErrIncomplete, algorithm)
	}
	fields := map[string]string{}
	for part := range strings.SplitSeq(rest, ",") {
		key, value, _ := strings.Cut(strings.TrimSpace(part), "=")
		fields[key] = value
	}
	scope := strings.Split(fields["Credential"], "/")
	if len(scope) != 5 || scope[4] != "aws4_request" {
		return claim{}, fmt.Errorf("%w: Credential must be key/date/region/service/aws4_request", ErrIncomplete)
	}
	c := claim{
		accessKeyID: scope[0], date: scope[1], region: scope[2], service: scope[3],
		signedHeaders: strings.Split(fields["SignedHeaders"], ";"),
		signature:     fields["Signature"],
	}
	// Without the host a signature would hold for any endpoint, without the date for ever.
	if c.signature == "" || !slices.Contains(c.signedHeaders, "host") || !slices.Contains(c.signedHeaders, "x-amz-date") {
		return claim{}, fmt.Errorf("%w: Signature and the signed headers host and x-amz-date are needed", ErrIncomplete)
	}
	return c, nil
}
