package access

import (
	"cmp"
	"context"
	"maps"
	"net/http"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
)

// Principal is somebody who can call.
type Principal struct {
	// ARN and UserID are what AWS calls them, for a session those of the session.
	ARN, UserID string
	// RoleARN is the role of a session, "" for others.
	RoleARN string
	// Administrator may do everything, policies or not.
	Administrator bool
	// Policies returns the policies of this moment: they may change while a session lasts.
	Policies func() []*policy.Document
}

// Identity is the ARN by which policies know the principal: a session goes by its role.
func (p Principal) Identity() string { return cmp.Or(p.RoleARN, p.ARN) }

// Identities knows whose access keys are whose.
type Identities interface {
	// Identify returns the secret key of an access key and who uses it. token is the session token that came with the
	// request, "" if there was none. Errors wrap one of package signature's.
	Identify(accessKeyID, token string) (secret string, p Principal, err error)
}

// Config is what a Gate is made of.
type Config struct {
	// AccountID is the number of the account.
	AccountID string
	// Serves tells whether there is such a service, in such a region.
	Serves func(service, region string) bool
	// Identities knows the callers.
	Identities Identities
	// Now tells the time.
	Now func() time.Time
}

// Gate is what every request passes first.
type Gate struct {
	cfg   Config
	calls Calls
}

// New makes a Gate.
func New(cfg Config) *Gate { return &Gate{cfg: cfg, calls: newCalls(cfg.Now)} }

// Calls is what was called so far.
func (g *Gate) Calls() *Calls { return &g.calls }

// Caller is who sent one request.
type Caller struct {
	Principal
	// Region is the region that the request was signed for.
	Region string

	gate *Gate
	keys policy.Keys
}

// Authenticate finds out who sent a request with the body given. Errors wrap one of package signature's.
func (g *Gate) Authenticate(ctx context.Context, r *http.Request, body []byte) (*Caller, error) {
	var principal Principal
	verifier := signature.Verifier{
		Serves: g.cfg.Serves,
		Now:    g.cfg.Now,
		Secret: func(accessKeyID, token string) (string, error) {
			secret, p, err := g.cfg.Identities.Identify(accessKeyID, token)
			principal = p
			return secret, err
		},
	}
	signer, err := verifier.Verify(ctx, r, body)
	if err != nil {
		return nil, err
	}
	return g.Caller(principal, signer.Region, r), nil
}

// Caller is somebody who was identified otherwise than by a signature, and sent a request to a region.
func (g *Gate) Caller(principal Principal, region string, r *http.Request) *Caller {
	c := &Caller{Principal: principal, Region: region, gate: g, keys: policy.Keys{}}
	c.keys.Set("aws:CurrentTime", g.cfg.Now().UTC().Format(time.RFC3339))
	c.keys.Set("aws:EpochTime", strconv.FormatInt(g.cfg.Now().Unix(), 10))
	c.keys.Set("aws:PrincipalAccount", g.cfg.AccountID)
	c.keys.Set("aws:PrincipalArn", principal.Identity())
	c.keys.Set("aws:RequestedRegion", region)
	c.keys.Set("aws:SecureTransport", strconv.FormatBool(r.TLS != nil))
	c.keys.Set("aws:userid", principal.UserID)
	if from, err := netip.ParseAddrPort(r.RemoteAddr); err == nil {
		c.keys.Set("aws:SourceIp", from.Addr().Unmap().String())
	}
	return c
}

// Authorize tells whether the caller may do all of what one call means to do; the error is a *Denied for the first thing
// that it may not. The requests' keys are those besides the ones that all calls have. The verdict is remembered.
func (c *Caller) Authorize(requests ...policy.Request) error {
	var actions []string
	for _, r := range requests {
		if verdict := c.judge(r); verdict != policy.Allowed {
			denied := &Denied{Principal: c.ARN, Action: r.Action, Resource: r.Resource, Explicit: verdict == policy.Denied}
			c.gate.calls.Denied(denied)
			return denied
		}
		if !slices.Contains(actions, r.Action) {
			actions = append(actions, r.Action)
		}
	}
	c.gate.calls.Allowed(c.ARN, actions...)
	return nil
}

func (c *Caller) judge(r policy.Request) policy.Decision {
	if c.Administrator {
		return policy.Allowed
	}
	keys := maps.Clone(c.keys)
	maps.Copy(keys, r.Keys)
	r.Keys = keys
	return policy.Evaluate(c.Policies(), r)
}

// Denied is the error that a caller may not do what was asked for.
type Denied struct {
	Principal, Action, Resource string
	// Explicit means that a statement denies it; otherwise none allows it.
	Explicit bool
}

// Error is the sentence that AWS's services answer with.
func (d *Denied) Error() string {
	sentence := "User: " + d.Principal + " is not authorized to perform: " + d.Action
	if d.Resource != "*" {
		sentence += " on resource: " + d.Resource
	}
	if d.Explicit {
		return sentence + " with an explicit deny in an identity-based policy"
	}
	return sentence + " because no identity-based policy allows the " + d.Action + " action"
}
