package iam

import (
	"crypto/rand"
	"maps"
	"net/http"
	"path/filepath"
	"regexp"
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/ec2local/statefile"
)

// Config is what an Account is made of.
type Config struct {
	// Dir is where the state is kept.
	Dir string
	// AccountID is the number of the account.
	AccountID string
	// Administrators are the access keys of the account's administrator.
	Administrators signature.Credentials
	// IssuerKeys are files with the public keys of token issuers, by their URL: PEM or a JSON web key set. They stand for
	// what AWS fetches from the issuer itself.
	IssuerKeys map[string]string
	// Now tells the time.
	Now func() time.Time
}

// Account is the account's identities. Its methods may be called from many goroutines; their errors are refusals of
// type *service.Error unless the state cannot be written.
type Account struct {
	cfg   Config
	store *statefile.Store[state]
}

// state is what is on disk.
type state struct {
	// Key seals sessions.
	Key       []byte
	Roles     map[string]Role     // by name
	Profiles  map[string]Profile  // by name
	Providers map[string]Provider // by host and path of the URL
}

// Clone implements [statefile.State].
func (s state) Clone() state {
	s.Roles, s.Profiles, s.Providers = maps.Clone(s.Roles), maps.Clone(s.Profiles), maps.Clone(s.Providers)
	return s
}

// Role is a role. Its policies are texts that were read before they were accepted.
type Role struct {
	Name, Path, ID, Description string
	Created                     time.Time
	MaxSession                  time.Duration
	// Trust says who may assume the role.
	Trust string
	// Policies are the inline policies, by name.
	Policies map[string]string
	Tags     map[string]string
}

// Profile is an instance profile. Role is the name of its role, "" for none.
type Profile struct {
	Name, Path, ID, Role string
	Created              time.Time
	Tags                 map[string]string
}

// Provider is an OIDC provider. URL has no scheme.
type Provider struct {
	URL         string
	ClientIDs   []string
	Thumbprints []string
	Created     time.Time
	Tags        map[string]string
}

// Open reads the account's identities, or begins without any.
func Open(cfg Config) (*Account, error) {
	store, err := statefile.Open(filepath.Join(cfg.Dir, "iam.json"), state{
		Roles: map[string]Role{}, Profiles: map[string]Profile{}, Providers: map[string]Provider{},
	})
	if err != nil {
		return nil, err
	}
	a := &Account{cfg, store}
	if len(store.Now().Key) > 0 {
		return a, nil
	}
	return a, store.Change(func(s *state) error {
		s.Key = make([]byte, 32)
		_, _ = rand.Read(s.Key) // never fails
		return nil
	})
}

// AccountID is the number of the account.
func (a *Account) AccountID() string { return a.cfg.AccountID }

// ARN is the ARN of something with a path and a name, of a kind such as role.
func (a *Account) ARN(kind, pathAndName string) string {
	return "arn:aws:iam::" + a.cfg.AccountID + ":" + kind + pathAndName
}

// RoleARN is a role's ARN.
func (a *Account) RoleARN(r Role) string { return a.ARN("role", r.Path+r.Name) }

// ProfileARN is an instance profile's ARN.
func (a *Account) ProfileARN(p Profile) string { return a.ARN("instance-profile", p.Path+p.Name) }

// ProviderARN is the ARN of an OIDC provider.
func (a *Account) ProviderARN(p Provider) string { return a.ARN("oidc-provider/", p.URL) }

// newID makes an ID that begins with a prefix of four letters, as AROA for roles.
func newID(prefix string) string { return prefix + rand.Text()[:17] }

var (
	goodName = regexp.MustCompile(`^[\w+=,.@-]{1,64}$`)
	goodPath = regexp.MustCompile(`^/([!-~]+/)?$`)
)

func checkName(what, name string) error {
	if !goodName.MatchString(name) {
		return service.Errorf(http.StatusBadRequest, "ValidationError", "The specified value for %s is invalid. It must contain "+
			"only alphanumeric characters and/or the following: +=,.@_- and have 1 to 64 of them", what)
	}
	return nil
}

func checkPath(path string) error {
	if !goodPath.MatchString(path) {
		return service.Errorf(http.StatusBadRequest, "ValidationError", "The specified value for path is invalid. It must begin and end with /")
	}
	return nil
}

func noSuch(what, name string) error {
	return service.Errorf(http.StatusNotFound, "NoSuchEntity", "The %s with name %s cannot be found.", what, name)
}

func exists(what, name string) error {
	return service.Errorf(http.StatusConflict, "EntityAlreadyExists", "%s with name %s already exists.", what, name)
}

func conflict(format string, args ...any) error {
	return service.Errorf(http.StatusConflict, "DeleteConflict", format, args...)
}

func malformed(err error) error {
	return service.Errorf(http.StatusBadRequest, "MalformedPolicyDocument", "Syntax errors in policy: %v", err)
}

// documents are a role's policies as they can be asked.
func (r Role) documents() []*policy.Document {
	var out []*policy.Document
	for _, name := range slices.Sorted(maps.Keys(r.Policies)) {
		// What does not parse allows nothing; it was refused when it was put.
		if d, err := policy.Parse([]byte(r.Policies[name])); err == nil {
			out = append(out, d)
		}
	}
	return out
}
