// Package stsapi speaks STS's Query API for the account of package iam.
package stsapi

import (
	"errors"
	"log/slog"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/service"
)

// api answers STS's operations.
type api struct {
	account *iam.Account
	calls   *access.Calls
}

// New makes the service.
func New(account *iam.Account, gate *access.Gate, log *slog.Logger) *service.Server {
	a := &api{account: account, calls: gate.Calls()}
	return &service.Server{
		Prefix: "sts", Protocol: service.Query(query.STS), Gate: gate, Log: log,
		Unsigned: []string{"AssumeRoleWithWebIdentity"},
		Operations: map[string]service.Operation{
			"AssumeRole":                service.Op(a.assumeRole),
			"AssumeRoleWithWebIdentity": service.Op(a.assumeRoleWithWebIdentity),
			"GetCallerIdentity":         service.Op(a.getCallerIdentity),
		},
	}
}

type credentials struct {
	AccessKeyID string     `xml:"AccessKeyId"`
	Secret      string     `xml:"SecretAccessKey"`
	Token       string     `xml:"SessionToken"`
	Expires     query.Time `xml:"Expiration"`
}

type assumedRole struct {
	ID  string `xml:"AssumedRoleId"`
	ARN string `xml:"Arn"`
}

func answerOf(s iam.Session) (credentials, assumedRole) {
	return credentials{s.AccessKeyID, s.Secret, s.Token, query.Time(s.Expires)}, assumedRole{s.UserID, s.ARN}
}

type assumeRoleRequest struct {
	RoleARN  string `query:"RoleArn,required"`
	Session  string `query:"RoleSessionName,required"`
	Duration int    `query:"DurationSeconds"`
}

type assumeRoleAnswer struct {
	Credentials credentials
	User        assumedRole `xml:"AssumedRoleUser"`
}

func (a *api) assumeRole(c *service.Call, in *assumeRoleRequest) (*assumeRoleAnswer, error) {
	if err := c.Authorize(in.RoleARN, nil); err != nil {
		return nil, err
	}
	s, err := a.account.Assume(c.Caller.Principal, in.RoleARN, in.Session, time.Duration(in.Duration)*time.Second)
	if err != nil {
		return nil, err
	}
	var answer assumeRoleAnswer
	answer.Credentials, answer.User = answerOf(s)
	return &answer, nil
}

type webIdentityRequest struct {
	assumeRoleRequest
	Token string `query:"WebIdentityToken,required"`
}

type webIdentityAnswer struct {
	assumeRoleAnswer
	Subject  string `xml:"SubjectFromWebIdentityToken"`
	Provider string
	Audience string
}

// assumeRoleWithWebIdentity is open to everybody: the token says who asks. It is remembered by the session that came of
// it, or would have.
func (a *api) assumeRoleWithWebIdentity(c *service.Call, in *webIdentityRequest) (*webIdentityAnswer, error) {
	action := "sts:" + c.Action
	s, err := a.account.AssumeWithWebIdentity(in.Token, in.RoleARN, in.Session, time.Duration(in.Duration)*time.Second)
	var refused *service.Error
	if errors.As(err, &refused) {
		a.calls.Denied(&access.Denied{Principal: "web identity", Action: action, Resource: in.RoleARN})
	}
	if err != nil {
		return nil, err
	}
	a.calls.Allowed(s.ARN, action)
	answer := &webIdentityAnswer{Subject: s.Subject, Provider: s.Provider, Audience: s.Audience}
	answer.Credentials, answer.User = answerOf(s.Session)
	return answer, nil
}

type callerIdentityAnswer struct {
	ARN     string `xml:"Arn"`
	UserID  string `xml:"UserId"`
	Account string
}

// getCallerIdentity needs no permission.
func (a *api) getCallerIdentity(c *service.Call, _ *struct{}) (*callerIdentityAnswer, error) {
	a.calls.Allowed(c.Caller.ARN, "sts:"+c.Action)
	return &callerIdentityAnswer{ARN: c.Caller.ARN, UserID: c.Caller.UserID, Account: a.account.AccountID()}, nil
}
