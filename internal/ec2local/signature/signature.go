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
	// ErrIncomplete means that the signature lacks something or names another region.
	ErrIncomplete = errors.New("the signature is incomplete")
	// ErrUnknownKey means that nobody knows the access key.
	ErrUnknownKey = errors.New("unknown access key")
	// ErrMismatch means that the signature is not the one the access key's secret gives for this request.
	ErrMismatch = errors.New("the signature does not match")
	// ErrExpired means that the request's time is too far from the server's.
	ErrExpired = errors.New("the request's time is too far from the server's")
	// ErrToken means that the session token is not one that goes with the access key.
	ErrToken = errors.New("the session token is invalid")
	// ErrTokenExpired means that the session is over.
	ErrTokenExpired = errors.New("the session token has expired")
)

const algorithm = "AWS4-HMAC-SHA256"

// HeaderToken is the header that carries the session token of temporary credentials.
const HeaderToken = "X-Amz-Security-Token"

// unsignedBodies are services that take requests whose bodies are not signed: they have checksums, which are.
var unsignedBodies = []string{"ebs"}

const (
	headerPayload   = "X-Amz-Content-Sha256"
	unsignedPayload = "UNSIGNED-PAYLOAD"
)

// Verifier checks signatures.
type Verifier struct {
	// Serves tells whether there is such a service here, in such a region.
	Serves func(service, region string) bool
	// Secret returns the secret key that belongs to an access key, with the session token of the request ("" if it has
	// none). Errors wrap one of the package's.
	Secret func(accessKeyID, token string) (secret string, err error)
	// Now is the server's time.
	Now func() time.Time
}

// Signer is whose signature a request has.
type Signer struct {
	AccessKeyID, Token string
	// Region and Service are what the request was signed for.
	Region, Service string
}

// Service returns the service that a request says it is signed for, "" if it is not signed. Nothing is verified.
func Service(r *http.Request) string {
	c, err := parse(r.Header.Get("Authorization"))
	if err != nil {
		return ""
	}
	return c.service
}

// Verify checks a request with the body given. It returns who signed it, or an error that wraps one of the package's.
// The request is not changed.
func (v *Verifier) Verify(ctx context.Context, r *http.Request, body []byte) (Signer, error) {
	claim, err := parse(r.Header.Get("Authorization"))
	if err != nil {
		return Signer{}, err
	}
	if !v.Serves(claim.service, claim.region) {
		return Signer{}, fmt.Errorf("%w: it is for service %q in region %q, which is not here", ErrIncomplete, claim.service, claim.region)
	}
	at, err := time.Parse("20060102T150405Z", r.Header.Get("X-Amz-Date"))
	if err != nil || at.Format("20060102") != claim.date {
		return Signer{}, fmt.Errorf("%w: X-Amz-Date is missing, malformed or not of the credential's day", ErrIncomplete)
	}
	if skew := v.Now().Sub(at).Abs(); skew > MaxSkew {
		return Signer{}, fmt.Errorf("%w: by %s", ErrExpired, skew.Round(time.Second))
	}
	token := r.Header.Get(HeaderToken)
	if token != "" && !slices.Contains(claim.signedHeaders, strings.ToLower(HeaderToken)) {
		return Signer{}, fmt.Errorf("%w: the session token must be signed", ErrIncomplete)
	}
	secret, err := v.Secret(claim.accessKeyID, token)
	if err != nil {
		return Signer{}, err
	}
	want, err := v.sign(ctx, r, body, claim, secret, at)
	if err != nil {
		return Signer{}, err
	}
	if !hmac.Equal([]byte(want), []byte(claim.signature)) {
		return Signer{}, ErrMismatch
	}
	return Signer{AccessKeyID: claim.accessKeyID, Token: token, Region: claim.region, Service: claim.service}, nil
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
	payload := hex.EncodeToString(sum[:])
	if slices.Contains(unsignedBodies, c.service) && again.Header.Get(headerPayload) == unsignedPayload {
		payload = unsignedPayload
	}
	credentials := aws.Credentials{AccessKeyID: c.accessKeyID, SecretAccessKey: secret}
	err := v4.NewSigner().SignHTTP(ctx, credentials, again, payload, c.service, c.region, at)
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
