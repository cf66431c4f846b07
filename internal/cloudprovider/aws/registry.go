package aws

import (
	"context"
	"encoding/base64"
	"errors"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ecr"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// registryAPI is what this package calls of ECR.
type registryAPI interface {
	GetAuthorizationToken(context.Context, *ecr.GetAuthorizationTokenInput, ...func(*ecr.Options)) (*ecr.GetAuthorizationTokenOutput, error)
}

// ecrHost is the host of a private registry: IPv4, dual-stack, either with
// FIPS, or China's. The region becomes a part of the name of the host that Kip
// asks, so nothing but a region may match.
var ecrHost = regexp.MustCompile(
	`^[0-9]{12}\.(?:dkr\.ecr(-fips)?\.([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2})\.amazonaws\.com(\.cn)?|dkr-ecr(-fips)?\.([a-z]{2}(?:-[a-z]+)+-[0-9]{1,2})\.on\.aws)$`)

// ecrEndpoint is where a login is asked for. One login is good for all
// registries of a region, other accounts' among them, as far as they let Kip's
// role in.
type ecrEndpoint struct {
	region string
	fips   bool
}

// parseRegistry finds where the registry at a host hands out its logins.
func parseRegistry(host string) (ecrEndpoint, bool) {
	m := ecrHost.FindStringSubmatch(host)
	if m == nil {
		return ecrEndpoint{}, false
	}
	e := ecrEndpoint{region: m[2] + m[5], fips: m[1]+m[4] != ""}
	china := m[3] != ""
	return e, china == strings.HasPrefix(e.region, "cn-")
}

// registries are the logins to ECR that were asked for.
type registries struct {
	p   *Provider
	ecr registryAPI

	mu     sync.Mutex
	logins map[ecrEndpoint]*ecrLogin
}

// ecrLogin is the login of one endpoint. Of callers that need it at the same
// time one asks and the others wait for the answer.
type ecrLogin struct {
	turn  chan struct{} // holds a token while someone reads or writes the rest
	login *cloudprovider.RegistryLogin
	// renew is when a new login is asked for, though this one is still good.
	renew time.Time
	// err is the last answer, if it was none, and stands until retry.
	err   error
	retry time.Time
}

// RegistryLogin implements cloudprovider.RegistryAuthorizer for private
// registries of ECR. Public ones (public.ecr.aws) need none; the login that
// raises their limits takes an action that Kip's policy does not grant.
func (p *Provider) RegistryLogin(ctx context.Context, host string) (*cloudprovider.RegistryLogin, error) {
	endpoint, ok := parseRegistry(host)
	if !ok {
		return nil, nil
	}
	l := p.regs.at(endpoint)
	select {
	case l.turn <- struct{}{}:
		defer func() { <-l.turn }()
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	now := p.cfg.Clock.Now()
	good := l.login != nil && now.Add(registryLoginMargin).Before(l.login.Expires)
	if good && now.Before(l.renew) {
		return l.login, nil
	}
	if l.err == nil || !now.Before(l.retry) {
		login, err := p.regs.ask(ctx, endpoint)
		if err == nil {
			l.login, l.renew, l.err = login, now.Add(login.Expires.Sub(now)/2), nil
			return login, nil
		}
		if ctx.Err() != nil {
			return nil, err // the caller gave up: that says nothing to others
		}
		l.err, l.retry = err, now.Add(registryRetry)
		p.log.Warn("no login to ECR", "region", endpoint.region, "err", err)
	}
	if good {
		return l.login, nil
	}
	return nil, l.err
}

// at returns an endpoint's login, made if need be. Pods name the regions, so
// those that came to nothing are forgotten.
func (r *registries) at(e ecrEndpoint) *ecrLogin {
	r.mu.Lock()
	defer r.mu.Unlock()
	if l := r.logins[e]; l != nil {
		return l
	}
	for other, l := range r.logins {
		select {
		case l.turn <- struct{}{}:
			if l.login == nil && l.err != nil && !r.p.cfg.Clock.Now().Before(l.retry) {
				delete(r.logins, other)
			}
			<-l.turn
		default: // in use
		}
	}
	l := &ecrLogin{turn: make(chan struct{}, 1)}
	r.logins[e] = l
	return l
}

// ask gets a login from ECR.
func (r *registries) ask(ctx context.Context, e ecrEndpoint) (*cloudprovider.RegistryLogin, error) {
	const action = "ecr:GetAuthorizationToken"
	out, err := r.ecr.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{}, func(o *ecr.Options) {
		o.Region = e.region
		if e.fips {
			o.EndpointOptions.UseFIPSEndpoint = aws.FIPSEndpointStateEnabled
		}
	})
	if err != nil {
		return nil, wrap(action, err)
	}
	login, err := decodeLogin(out)
	if err != nil {
		return nil, &cloudprovider.Error{Kind: cloudprovider.Transient, Action: action, Err: err}
	}
	return login, nil
}

// decodeLogin reads what ECR answered: base64 of "AWS:password". The errors
// do not hold it.
func decodeLogin(out *ecr.GetAuthorizationTokenOutput) (*cloudprovider.RegistryLogin, error) {
	if len(out.AuthorizationData) == 0 {
		return nil, errors.New("the answer holds no authorization data")
	}
	data := out.AuthorizationData[0]
	raw, err := base64.StdEncoding.DecodeString(aws.ToString(data.AuthorizationToken))
	if err != nil {
		return nil, errors.New("the token is not base64")
	}
	username, password, ok := strings.Cut(string(raw), ":")
	if !ok || username == "" || password == "" || data.ExpiresAt == nil {
		return nil, errors.New("the token is no user name and password that expire")
	}
	return &cloudprovider.RegistryLogin{Username: username, Password: password, Expires: *data.ExpiresAt}, nil
}
