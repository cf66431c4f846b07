package iam

import (
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
)

const (
	trustAccount = `{"Statement": {"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"}}`
	trustEC2     = `{"Statement": {"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}}`
)

// world is an account whose time the test tells.
type world struct {
	*Account
	time time.Time
	dir  string
}

func open(t *testing.T) *world {
	t.Helper()
	w := &world{time: time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC), dir: t.TempDir()}
	w.reopen(t)
	return w
}

func (w *world) reopen(t *testing.T) {
	t.Helper()
	a, err := Open(Config{
		Dir: w.dir, AccountID: "123456789012", Administrators: signature.Credentials{"AKIA": "secret"},
		Now: func() time.Time { return w.time },
	})
	if err != nil {
		t.Fatal(err)
	}
	w.Account = a
}

func (w *world) role(t *testing.T, name, trust string) Role {
	t.Helper()
	r, err := w.CreateRole(Role{Name: name, Trust: trust})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

var administrator = access.Principal{ARN: "arn:aws:iam::123456789012:user/administrator"}

// code is the code of a refusal.
func code(err error) string {
	var refused *service.Error
	if errors.As(err, &refused) {
		return refused.Code
	}
	return ""
}

func TestSession(t *testing.T) {
	w := open(t)
	r := w.role(t, "r", trustAccount)
	s, err := w.Assume(administrator, w.RoleARN(r), "me", 0)
	if err != nil {
		t.Fatal(err)
	}
	w.reopen(t)
	secret, p, err := w.Identify(s.AccessKeyID, s.Token)
	if err != nil || secret != s.Secret || p.ARN != "arn:aws:sts::123456789012:assumed-role/r/me" || p.Identity() != w.RoleARN(r) || p.Administrator {
		t.Errorf("after a restart: %+v, %v", p, err)
	}
	if err := w.PutPolicy("r", "p", `{"Statement": {"Effect": "Allow", "Action": "*", "Resource": "*"}}`); err != nil {
		t.Fatal(err)
	}
	if n := len(p.Policies()); n != 1 {
		t.Errorf("the session has %d policies", n)
	}
	cases := map[string]struct {
		reason, key, token string
		want               error
	}{
		"no token":    {"temporary keys need one", s.AccessKeyID, "", signature.ErrUnknownKey},
		"other key":   {"of another session", "ASIAOTHER", s.Token, signature.ErrToken},
		"forged":      {"somebody wrote it", s.AccessKeyID, strings.Repeat("A", len(s.Token)), signature.ErrToken},
		"short":       {"shorter than a seal", s.AccessKeyID, "AAAA", signature.ErrToken},
		"no need":     {"permanent keys have none", "AKIA", s.Token, signature.ErrToken},
		"no identity": {"nobody's", "AKIAOTHER", "", signature.ErrUnknownKey},
	}
	for name, tc := range cases {
		if _, _, err := w.Identify(tc.key, tc.token); !errors.Is(err, tc.want) {
			t.Errorf("%s, %s: %v", name, tc.reason, err)
		}
	}
	w.time = s.Expires.Add(-time.Second)
	if _, _, err := w.Identify(s.AccessKeyID, s.Token); err != nil {
		t.Errorf("before its end: %v", err)
	}
	w.time = s.Expires
	if _, _, err := w.Identify(s.AccessKeyID, s.Token); !errors.Is(err, signature.ErrTokenExpired) {
		t.Errorf("after its end: %v", err)
	}
	w.time = s.Expires.Add(-time.Second)
	if err := errors.Join(w.DeletePolicy("r", "p"), w.DeleteRole("r")); err != nil {
		t.Fatal(err)
	}
	w.role(t, "r", trustAccount)
	if _, _, err := w.Identify(s.AccessKeyID, s.Token); !errors.Is(err, signature.ErrToken) {
		t.Errorf("with another role of the same name: %v", err)
	}
}

func TestAssumeRefusals(t *testing.T) {
	w := open(t)
	r, closed := w.role(t, "r", trustAccount), w.role(t, "closed", trustEC2)
	cases := map[string]struct {
		reason, role, session string
		duration              time.Duration
		want                  string
	}{
		"untrusted": {"only EC2 may", w.RoleARN(closed), "me", 0, "AccessDenied"},
		"unknown":   {"no such role", w.RoleARN(r) + "x", "me", 0, "AccessDenied"},
		"account":   {"of another account", "arn:aws:iam::999999999999:role/r", "me", 0, "AccessDenied"},
		"name":      {"with a space", w.RoleARN(r), "m e", 0, "ValidationError"},
		"short":     {"less than 15 minutes", w.RoleARN(r), "me", time.Minute, "ValidationError"},
		"long":      {"more than the role allows", w.RoleARN(r), "me", 2 * time.Hour, "ValidationError"},
	}
	for name, tc := range cases {
		if _, err := w.Assume(administrator, tc.role, tc.session, tc.duration); code(err) != tc.want {
			t.Errorf("%s, %s: got %v, want %s", name, tc.reason, err, tc.want)
		}
	}
}

func TestInstanceSession(t *testing.T) {
	w := open(t)
	w.role(t, "good", trustEC2)
	w.role(t, "bad", trustAccount)
	p, err := w.CreateProfile(Profile{Name: "p"})
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.InstanceSession(w.ProfileARN(p), "i-1"); code(err) != "NoSuchEntity" {
		t.Errorf("without a role: %v", err)
	}
	if err := w.AddRole("p", "bad"); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.InstanceSession(w.ProfileARN(p), "i-1"); code(err) != "AccessDenied" {
		t.Errorf("with a role that does not trust EC2: %v", err)
	}
	if err := errors.Join(w.RemoveRole("p", "bad"), w.AddRole("p", "good")); err != nil {
		t.Fatal(err)
	}
	session := func(instance string) Session {
		role, s, err := w.InstanceSession(w.ProfileARN(p), instance)
		if err != nil || role != "good" {
			t.Fatalf("role %q, %v", role, err)
		}
		return s
	}
	first := session("i-1")
	w.time = w.time.Truncate(time.Hour).Add(time.Hour - time.Second)
	if session("i-1") != first || session("i-2").AccessKeyID == first.AccessKeyID {
		t.Error("an instance has one session in an hour, and another instance has another")
	}
	w.time = w.time.Add(time.Second)
	if next := session("i-1"); next.AccessKeyID == first.AccessKeyID || !next.Expires.After(first.Expires) {
		t.Error("the session is not renewed")
	}
	if _, _, err := w.Identify(first.AccessKeyID, first.Token); err != nil {
		t.Errorf("the older session must last a while: %v", err)
	}
}

func TestPolicyLimits(t *testing.T) {
	w := open(t)
	w.role(t, "r", trustAccount)
	big := `{"Statement": {"Effect": "Allow", "Action": "ec2:` + strings.Repeat("a", 6000) + `", "Resource": "*"}}`
	if err := w.PutPolicy("r", "a", big); err != nil {
		t.Fatal(err)
	}
	if err := w.PutPolicy("r", "b", big); code(err) != "LimitExceeded" {
		t.Errorf("two that are too much together: %v", err)
	}
	if err := w.PutPolicy("r", "a", strings.ReplaceAll(big, " ", strings.Repeat(" ", 2000))); err != nil {
		t.Errorf("white space does not count: %v", err)
	}
	if _, err := w.Policy("r", "b"); code(err) != "NoSuchEntity" {
		t.Errorf("the policy that was refused: %v", err)
	}
}

func TestRegistryPassword(t *testing.T) {
	w := open(t)
	r := w.role(t, "r", trustAccount)
	s, err := w.Assume(administrator, w.RoleARN(r), "me", 0)
	if err != nil {
		t.Fatal(err)
	}
	_, me, err := w.Identify(s.AccessKeyID, s.Token)
	if err != nil {
		t.Fatal(err)
	}
	_, admin, err := w.Identify("AKIA", "")
	if err != nil {
		t.Fatal(err)
	}
	const life = 12 * time.Hour
	mine, others := w.RegistryPassword(me, w.time.Add(life)), w.RegistryPassword(admin, w.time.Add(life))
	w.reopen(t)
	// A password outlives the session that asked for it.
	w.time = w.time.Add(life - time.Second)
	for password, want := range map[string]access.Principal{mine: me, others: admin} {
		got, err := w.ByRegistryPassword(password)
		if err != nil || got.ARN != want.ARN || got.UserID != want.UserID || got.RoleARN != want.RoleARN || got.Administrator != want.Administrator {
			t.Errorf("after a restart it is %+v's, %v; want %s", got, err, want.ARN)
		}
	}
	for reason, password := range map[string]string{
		"nothing": "", "a guess": "guess", "another's changed": mine[:len(mine)-1] + "A",
		"a session's token, which is for something else": s.Token,
	} {
		if _, err := w.ByRegistryPassword(password); !errors.Is(err, signature.ErrToken) {
			t.Errorf("%s: %v", reason, err)
		}
	}
	if _, _, err := w.Identify(s.AccessKeyID, mine); !errors.Is(err, signature.ErrToken) {
		t.Errorf("a registry's password is a session's token: %v", err)
	}
	w.time = w.time.Add(time.Second)
	if _, err := w.ByRegistryPassword(mine); !errors.Is(err, signature.ErrTokenExpired) {
		t.Errorf("after its time: %v", err)
	}
	w.time = w.time.Add(-time.Second)
	if err := w.DeleteRole("r"); err != nil {
		t.Fatal(err)
	}
	if _, err := w.ByRegistryPassword(mine); !errors.Is(err, signature.ErrToken) {
		t.Errorf("of a role that is gone: %v", err)
	}
}
