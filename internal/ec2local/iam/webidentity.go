package iam

import (
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net/http"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// WebSession is a session of somebody who showed a token.
type WebSession struct {
	Session
	Subject, Audience, Provider string
}

// AssumeWithWebIdentity makes a session of a role for whoever has a token of an OIDC provider of the account, if the
// role trusts the token's subject and audience.
func (a *Account) AssumeWithWebIdentity(token, roleARN, session string, duration time.Duration) (WebSession, error) {
	const action = "sts:AssumeRoleWithWebIdentity"
	p, claims, err := a.verify(token)
	if err != nil {
		return WebSession{}, err
	}
	r, duration, err := a.roleOf(roleARN, session, duration, action)
	if err != nil {
		return WebSession{}, err
	}
	keys := policy.Keys{}
	keys.Set(p.URL+":sub", claims.Subject)
	keys.Set(p.URL+":aud", claims.Audience...)
	if !a.trusts(r, policy.Principal{Kind: "Federated", Name: a.ProviderARN(p)}, action, keys) {
		return WebSession{}, notAuthorized(action)
	}
	return WebSession{
		Session: a.session(r, session, "ASIA"+rand.Text()[:16], a.cfg.Now().Add(duration)),
		Subject: claims.Subject, Provider: a.ProviderARN(p),
		Audience: claims.Audience[slices.IndexFunc(claims.Audience, func(aud string) bool { return slices.Contains(p.ClientIDs, aud) })],
	}, nil
}

// algorithms are the signatures that STS accepts.
var algorithms = []jose.SignatureAlgorithm{jose.RS256, jose.RS384, jose.RS512, jose.ES256, jose.ES384}

// verify tells whose token this is: one of an OIDC provider of the account, for a client that it lists, signed with one
// of the issuer's keys, and not expired.
func (a *Account) verify(token string) (Provider, jwt.Claims, error) {
	invalid := func(format string, args ...any) (Provider, jwt.Claims, error) {
		return Provider{}, jwt.Claims{}, service.Errorf(http.StatusBadRequest, "InvalidIdentityToken", format, args...)
	}
	parsed, err := jwt.ParseSigned(token, algorithms)
	var claims jwt.Claims
	if err == nil {
		err = parsed.UnsafeClaimsWithoutVerification(&claims)
	}
	if err != nil {
		return invalid("The ID Token provided is not a valid JWT. (You may see this error if you sent an Access Token)")
	}
	host, ok := strings.CutPrefix(claims.Issuer, "https://")
	p, known := a.store.Now().Providers[host]
	if !ok || !known {
		return invalid("No OpenIDConnect provider found in your account for %s", claims.Issuer)
	}
	keys, err := a.issuerKeys(claims.Issuer)
	if err != nil {
		return invalid("Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements: %v", err)
	}
	if !slices.ContainsFunc(keys, func(key any) bool { return parsed.Claims(key, &claims) == nil }) {
		return invalid("Couldn't retrieve verification key from your identity provider, please reference AssumeRoleWithWebIdentity documentation for requirements")
	}
	now := a.cfg.Now()
	if claims.Expiry == nil || !now.Before(claims.Expiry.Time()) {
		return Provider{}, jwt.Claims{}, service.Errorf(http.StatusBadRequest, "ExpiredTokenException",
			"Token expired: current date/time %d must be before the expiration date/time %d", now.Unix(), int64OrZero(claims.Expiry))
	}
	if claims.NotBefore != nil && now.Before(claims.NotBefore.Time()) {
		return invalid("Token is not yet valid")
	}
	if !slices.ContainsFunc(claims.Audience, func(aud string) bool { return slices.Contains(p.ClientIDs, aud) }) {
		return invalid("Incorrect token audience")
	}
	return p, claims, nil
}

func int64OrZero(d *jwt.NumericDate) int64 {
	if d == nil {
		return 0
	}
	return int64(*d)
}

// issuerKeys reads the public keys of an issuer, anew each time: they rotate.
func (a *Account) issuerKeys(issuer string) ([]any, error) {
	file, ok := a.cfg.IssuerKeys[issuer]
	if !ok {
		return nil, fmt.Errorf("no keys of issuer %s are known", issuer)
	}
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the keys of issuer %s: %w", issuer, err)
	}
	var set jose.JSONWebKeySet
	if json.Unmarshal(raw, &set) == nil {
		var keys []any
		for _, key := range set.Keys {
			keys = append(keys, key.Public().Key)
		}
		return keys, nil
	}
	var keys []any
	for block, rest := pem.Decode(raw); block != nil; block, rest = pem.Decode(rest) {
		key, err := x509.ParsePKIXPublicKey(block.Bytes)
		if err != nil {
			return nil, fmt.Errorf("reading the keys of issuer %s: %w", issuer, err)
		}
		keys = append(keys, key)
	}
	if len(keys) == 0 {
		return nil, fmt.Errorf("reading the keys of issuer %s: %s holds none", issuer, file)
	}
	return keys, nil
}
