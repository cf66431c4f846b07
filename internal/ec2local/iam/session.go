package iam

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base32"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"regexp"
	"strings"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
)

// Session is a role assumed by somebody, with credentials.
type Session struct {
	AccessKeyID, Secret, Token string
	Expires                    time.Time
	// ARN and UserID are the session's.
	ARN, UserID string
}

// sealed is what a session's token says.
type sealed struct {
	AccessKeyID, Role, RoleID, Name string
	Expires                         int64
}

// STS's limits on a session.
const (
	leastDuration   = 15 * time.Minute
	defaultDuration = time.Hour
)

var goodSessionName = regexp.MustCompile(`^[\w+=,.@-]{2,64}$`)

// roleOf finds the role that somebody wants to assume, and how long the session may last.
func (a *Account) roleOf(roleARN, session string, duration time.Duration, action string) (Role, time.Duration, error) {
	if !goodSessionName.MatchString(session) {
		return Role{}, 0, service.Errorf(http.StatusBadRequest, "ValidationError", "The role session name must have 2 to 64 of the characters A-Z, a-z, 0-9 and +=,.@_-")
	}
	if duration == 0 {
		duration = defaultDuration
	}
	if duration < leastDuration || duration > maxSession {
		return Role{}, 0, service.Errorf(http.StatusBadRequest, "ValidationError", "DurationSeconds must be from 900 to 43200")
	}
	r, err := a.Role(roleARN[strings.LastIndex(roleARN, "/")+1:])
	if err != nil || a.RoleARN(r) != roleARN {
		// A role that does not exist is one that nobody may assume.
		return Role{}, 0, notAuthorized(action)
	}
	if duration > r.MaxSession {
		return Role{}, 0, service.Errorf(http.StatusBadRequest, "ValidationError", "The requested DurationSeconds exceeds the MaxSessionDuration set for this role.")
	}
	return r, duration, nil
}

func notAuthorized(action string) error {
	return service.Errorf(http.StatusForbidden, "AccessDenied", "Not authorized to perform %s", action)
}

// Assume makes a session of a role for somebody who was identified. The role must trust it.
func (a *Account) Assume(p access.Principal, roleARN, session string, duration time.Duration) (Session, error) {
	const action = "sts:AssumeRole"
	r, duration, err := a.roleOf(roleARN, session, duration, action)
	if err != nil {
		return Session{}, err
	}
	if !a.trusts(r, policy.Principal{Kind: "AWS", Name: p.Identity()}, action, nil) {
		return Session{}, notAuthorized(action)
	}
	return a.session(r, session, "ASIA"+rand.Text()[:16], a.cfg.Now().Add(duration)), nil
}

// trusts asks a role's trust policy.
func (a *Account) trusts(r Role, p policy.Principal, action string, keys policy.Keys) bool {
	d, err := policy.ParseTrust([]byte(r.Trust))
	if err != nil {
		return false // cannot be: it was read before it was accepted
	}
	all := policy.Keys{}
	for name, values := range keys {
		all[name] = values
	}
	all.Set("aws:CurrentTime", a.cfg.Now().UTC().Format(time.RFC3339))
	all.Set("aws:EpochTime", fmt.Sprint(a.cfg.Now().Unix()))
	return d.Trusts(p, policy.Request{Action: action, Resource: "*", Keys: all}) == policy.Allowed
}

// instanceSession is how long an instance's credentials are good at least; new ones are made every hour.
const instanceSession = 6 * time.Hour

// InstanceSession is the session of an instance with an instance profile: the same one for an hour. It is an error if
// the profile has no role, or one that does not trust EC2.
func (a *Account) InstanceSession(profileARN, instanceID string) (role string, s Session, err error) {
	p, err := a.ProfileByARN(profileARN)
	if err != nil {
		return "", s, err
	}
	r, err := a.Role(p.Role)
	if err != nil {
		return "", s, err
	}
	if !a.trusts(r, policy.Principal{Kind: "Service", Name: "ec2.amazonaws.com"}, "sts:AssumeRole", nil) {
		return "", s, notAuthorized("sts:AssumeRole")
	}
	hour := a.cfg.Now().Truncate(time.Hour)
	key := base32.StdEncoding.EncodeToString(a.mac("instance", instanceID, r.ID, hour.String()))
	return r.Name, a.session(r, instanceID, "ASIA"+key[:16], hour.Add(instanceSession)), nil
}

// session makes a session.
func (a *Account) session(r Role, name, accessKeyID string, expires time.Time) Session {
	expires = expires.Truncate(time.Second).UTC()
	token := a.seal(sessionToken, sealed{AccessKeyID: accessKeyID, Role: r.Name, RoleID: r.ID, Name: name, Expires: expires.Unix()})
	return Session{
		AccessKeyID: accessKeyID, Secret: a.secret(accessKeyID), Token: token, Expires: expires,
		ARN: a.sessionARN(r, name), UserID: r.ID + ":" + name,
	}
}

func (a *Account) sessionARN(r Role, name string) string {
	return "arn:aws:sts::" + a.cfg.AccountID + ":assumed-role/" + r.Name + "/" + name
}

func (a *Account) secret(accessKeyID string) string {
	return base64.StdEncoding.EncodeToString(a.mac("secret", accessKeyID))[:40]
}

// mac authenticates a text for a purpose.
func (a *Account) mac(purpose string, parts ...string) []byte {
	m := hmac.New(sha256.New, a.store.Now().Key)
	_, _ = m.Write([]byte(purpose + "\x00" + strings.Join(parts, "\x00"))) // never fails
	return m.Sum(nil)
}

// Identify implements [access.Identities].
func (a *Account) Identify(accessKeyID, token string) (string, access.Principal, error) {
	if secret, ok := a.cfg.Administrators[accessKeyID]; ok {
		if token != "" {
			return "", access.Principal{}, fmt.Errorf("%w: the access key %q has none", signature.ErrToken, accessKeyID)
		}
		p, err := a.principal(sealed{})
		return secret, p, err
	}
	if token == "" {
		return "", access.Principal{}, fmt.Errorf("%w %q", signature.ErrUnknownKey, accessKeyID)
	}
	s, err := a.open(sessionToken, token)
	if err != nil {
		return "", access.Principal{}, err
	}
	if s.AccessKeyID != accessKeyID {
		return "", access.Principal{}, signature.ErrToken
	}
	p, err := a.principal(s)
	return a.secret(accessKeyID), p, err
}

// principal is who something was sealed for: the session of a role, or the administrator.
func (a *Account) principal(s sealed) (access.Principal, error) {
	if s.Role == "" {
		return access.Principal{ARN: a.ARN("user", "/administrator"), UserID: "AIDAADMINISTRATOR0000", Administrator: true}, nil
	}
	r, err := a.Role(s.Role)
	if err != nil || r.ID != s.RoleID {
		return access.Principal{}, fmt.Errorf("%w: its role is gone", signature.ErrToken)
	}
	return access.Principal{
		ARN: a.sessionARN(r, s.Name), UserID: r.ID + ":" + s.Name, RoleARN: a.RoleARN(r),
		Policies: func() []*policy.Document {
			r, err := a.Role(s.Role)
			if err != nil {
				return nil
			}
			return r.documents()
		},
	}, nil
}

// What is sealed: each purpose has texts of its own.
const (
	sessionToken     = "token"
	registryPassword = "registry"
)

// RegistryPassword makes a password for the account's image registries, good until a time, with which somebody is who
// they are now.
func (a *Account) RegistryPassword(p access.Principal, expires time.Time) string {
	s := sealed{Expires: expires.Unix()}
	if !p.Administrator {
		s.Role = p.RoleARN[strings.LastIndex(p.RoleARN, "/")+1:]
		s.RoleID, s.Name, _ = strings.Cut(p.UserID, ":")
	}
	return a.seal(registryPassword, s)
}

// ByRegistryPassword is whose password it is. Errors wrap one of package signature's.
func (a *Account) ByRegistryPassword(password string) (access.Principal, error) {
	s, err := a.open(registryPassword, password)
	if err != nil {
		return access.Principal{}, err
	}
	return a.principal(s)
}

// seal makes a text that only this account can have made, for a purpose.
func (a *Account) seal(purpose string, s sealed) string {
	raw, err := json.Marshal(s)
	if err != nil {
		panic("iam: " + err.Error()) // strings and a number always can be written
	}
	return base64.RawStdEncoding.EncodeToString(append(raw, a.mac(purpose, string(raw))...))
}

// open reads a text that was sealed by this account for a purpose, and is still good.
func (a *Account) open(purpose, text string) (s sealed, err error) {
	raw, err := base64.RawStdEncoding.DecodeString(text)
	if err != nil || len(raw) < sha256.Size {
		return s, signature.ErrToken
	}
	said, sum := raw[:len(raw)-sha256.Size], raw[len(raw)-sha256.Size:]
	if !hmac.Equal(sum, a.mac(purpose, string(said))) || json.Unmarshal(said, &s) != nil {
		return s, signature.ErrToken
	}
	if !a.cfg.Now().Before(time.Unix(s.Expires, 0)) {
		return s, signature.ErrTokenExpired
	}
	return s, nil
}
