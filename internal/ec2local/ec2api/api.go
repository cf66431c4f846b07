// Package ec2api speaks EC2's Query API for one account of package cloud.
//
// Each operation is one entry in the table of operations.go: a request struct that package query fills, a handler, and
// an answer struct whose XML names are EC2's. Handlers check what only concerns the request and leave everything about
// the account to package cloud. What EC2 has but this does not is refused as unknown, never ignored.
package ec2api

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/ec2local/snapshot"
)

// maxBody is the most a request may hold, in bytes: user data is the largest part and limited to 16 KiB.
const maxBody = 1 << 20

// API is EC2's API as an http.Handler.
type API struct {
	cloud     *cloud.Cloud
	snapshots *snapshot.Store
	gate      *access.Gate
	profiles  Profiles
	trouble   Trouble
	log       *slog.Logger
}

// New makes the API of an account. Requests that gate does not let pass are refused.
func New(c *cloud.Cloud, snapshots *snapshot.Store, gate *access.Gate, profiles Profiles, trouble Trouble, log *slog.Logger) *API {
	return &API{cloud: c, snapshots: snapshots, gate: gate, profiles: profiles, trouble: trouble, log: log}
}

// ServeHTTP implements [http.Handler].
func (a *API) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requestID := newRequestID()
	action, answer, err := a.serve(w, r)
	if errors.Is(err, errLost) {
		panic(http.ErrAbortHandler) // net/http's way to end the connection
	}
	var body bytes.Buffer
	if err == nil {
		err = query.EncodeAnswer(&body, action, requestID, answer)
	}
	status := http.StatusOK
	if err != nil {
		var refused *query.Error
		if !errors.As(err, &refused) {
			a.log.Error("request failed", "action", action, "request", requestID, "error", err)
			refused = query.Errorf("InternalError", "An internal error has occurred")
		}
		a.log.Debug("refused", "action", action, "code", refused.Code, "message", refused.Message)
		status = refused.Status
		body.Reset()
		if err := query.EncodeError(&body, requestID, refused); err != nil {
			a.log.Error("request failed", "action", action, "request", requestID, "error", err)
		}
	} else {
		a.log.Debug("answered", "action", action)
	}
	w.Header().Set("Content-Type", "text/xml;charset=UTF-8")
	w.Header().Set("X-Amzn-Requestid", requestID)
	w.WriteHeader(status)
	// A client that went away cannot be told anything.
	_, _ = w.Write(body.Bytes())
}

// serve answers one request.
func (a *API) serve(w http.ResponseWriter, r *http.Request) (action string, answer query.Answerer, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return "", nil, query.Errorf("InvalidRequest", "The request cannot be read: %v", err)
	}
	caller, err := a.gate.Authenticate(r.Context(), r, body)
	if err != nil {
		return "", nil, authError(err)
	}
	form, err := query.Parameters(r, body)
	if err != nil {
		return "", nil, err
	}
	action = form.Get("Action")
	if version := form.Get("Version"); version != query.Version {
		return action, nil, query.Errorf("InvalidParameterValue", "Value (%s) for parameter Version is invalid. It must be %s", version, query.Version)
	}
	run, ok := operations[action]
	if !ok {
		return action, nil, query.Errorf("InvalidAction", "The action %s is not valid for this web service.", action)
	}
	answer, err = a.through(r.Context(), action, form, func() (query.Answerer, error) {
		return run(a, call{action: action, form: form, caller: caller})
	})
	return action, answer, err
}

// authError is the refusal of a request that was not believed.
func authError(err error) error {
	switch {
	case errors.Is(err, signature.ErrMissing):
		return query.Errorf("MissingAuthenticationToken", "Request is missing Authentication Token")
	case errors.Is(err, signature.ErrExpired), errors.Is(err, signature.ErrTokenExpired):
		return query.Errorf("RequestExpired", "Request has expired: %v", err)
	}
	return query.Errorf("AuthFailure", "AWS was not able to validate the provided access credentials: %v", err)
}

func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
