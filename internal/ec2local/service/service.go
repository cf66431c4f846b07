// Package service is what ec2local's smaller services have in common: reading a request, finding out who sent it,
// finding its operation, and writing the answer or the refusal, in the protocol of the service. An operation is a
// function from a request's struct to an answer's struct; see [Op].
package service

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"slices"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
)

// Error is a refusal: one of the service's error codes with a sentence for people.
type Error struct {
	// Status is the HTTP status.
	Status        int
	Code, Message string
	// Fields are what the error's body has besides, where the protocol has room for it.
	Fields map[string]string
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf makes an Error.
func Errorf(status int, code, format string, args ...any) *Error {
	return &Error{Status: status, Code: code, Message: fmt.Sprintf(format, args...)}
}

// Call is one request.
type Call struct {
	// Action is the operation's name.
	Action string
	// Caller sent the request; nil for operations that need no signature.
	Caller *access.Caller

	prefix string
}

// Authorize tells whether the caller may do the operation to a resource.
func (c *Call) Authorize(resource string, keys policy.Keys) error {
	return c.Caller.Authorize(policy.Request{Action: c.prefix + ":" + c.Action, Resource: resource, Keys: keys})
}

// Operation answers a call. decode fills a request's struct.
type Operation func(c *Call, decode func(into any) error) (answer any, err error)

// Op makes an operation of a handler.
func Op[In, Out any](handle func(*Call, *In) (*Out, error)) Operation {
	return func(c *Call, decode func(any) error) (any, error) {
		var in In
		if err := decode(&in); err != nil {
			return nil, err
		}
		return handle(c, &in)
	}
}

// Silent makes an operation of a handler whose answer says nothing.
func Silent[In any](handle func(*Call, *In) error) Operation {
	return func(c *Call, decode func(any) error) (any, error) {
		var in In
		if err := decode(&in); err != nil {
			return nil, err
		}
		return nil, handle(c, &in)
	}
}

// Protocol is how a service's requests and answers look.
type Protocol interface {
	// read finds what a request asks for. Errors are of type *Error.
	read(r *http.Request, body []byte) (action string, decode func(into any) error, err error)
	// contentType is the type of all answers.
	contentType() string
	// answer writes an answer's body, and returns its status.
	answer(out io.Writer, action, requestID string, answer any) (status int, err error)
	// refuse writes a refusal's body and the headers that go with it.
	refuse(out io.Writer, header http.Header, requestID string, e *Error) error
	// codes are the protocol's words for what can go wrong before an operation is reached.
	codes() codes
}

// codes are codes of errors with their status.
type codes struct {
	unsigned, incomplete, unknownKey, mismatch, expired, tokenExpired, denied, internal, unknownAction Error
}

// Server is one service. It is an http.Handler.
type Server struct {
	// Prefix stands before the service's actions in policies, such as iam.
	Prefix string
	// Protocol is what the service speaks.
	Protocol Protocol
	// Operations are all operations by name.
	Operations map[string]Operation
	// Unsigned are the operations that need no signature.
	Unsigned []string
	// Gate knows the callers.
	Gate *access.Gate
	// Log takes what happens.
	Log *slog.Logger
}

// maxBody is the most that a request may hold, in bytes.
const maxBody = 1 << 20

// ServeHTTP implements [http.Handler].
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	requestID := newRequestID()
	action, answer, err := s.serve(w, r)
	var body bytes.Buffer
	var status int
	if err == nil {
		status, err = s.Protocol.answer(&body, action, requestID, answer)
	}
	w.Header().Set("X-Amzn-Requestid", requestID)
	if err != nil {
		e := s.refusal(err)
		if e.Status >= http.StatusInternalServerError {
			s.Log.Error("request failed", "service", s.Prefix, "action", action, "request", requestID, "error", err)
		} else {
			s.Log.Debug("refused", "service", s.Prefix, "action", action, "code", e.Code, "message", e.Message)
		}
		body.Reset()
		status = e.Status
		if err := s.Protocol.refuse(&body, w.Header(), requestID, e); err != nil {
			s.Log.Error("request failed", "service", s.Prefix, "action", action, "request", requestID, "error", err)
		}
	} else {
		s.Log.Debug("answered", "service", s.Prefix, "action", action)
	}
	if headed, ok := answer.(Headed); ok && err == nil {
		for name, value := range headed.Headers() {
			w.Header().Set(name, value)
		}
	}
	w.Header().Set("Content-Type", s.Protocol.contentType())
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes()) // a client that went away cannot be told anything
}

func (s *Server) serve(w http.ResponseWriter, r *http.Request) (action string, answer any, err error) {
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		return "", nil, Errorf(http.StatusBadRequest, "InvalidRequest", "The request cannot be read: %v", err)
	}
	action, decode, err := s.Protocol.read(r, body)
	call := &Call{Action: action, prefix: s.Prefix}
	if r.Header.Get("Authorization") != "" || !slices.Contains(s.Unsigned, action) {
		var failed error
		if call.Caller, failed = s.Gate.Authenticate(r.Context(), r, body); failed != nil {
			return action, nil, failed
		}
	}
	if err != nil {
		return action, nil, err
	}
	run, ok := s.Operations[action]
	if !ok {
		return action, nil, errUnknownAction
	}
	answer, err = run(call, decode)
	return action, answer, err
}

var errUnknownAction = errors.New("there is no such operation")

// refusal is what to answer to an error.
func (s *Server) refusal(err error) *Error {
	var refused *Error
	var denied *access.Denied
	if errors.As(err, &refused) {
		return refused
	}
	codes := s.Protocol.codes()
	because := func(e Error, why string) *Error {
		if why != "" {
			e.Message = why
		}
		return &e
	}
	switch {
	case errors.As(err, &denied):
		return because(codes.denied, denied.Error())
	case errors.Is(err, errUnknownAction):
		return because(codes.unknownAction, "")
	case errors.Is(err, signature.ErrMissing):
		return because(codes.unsigned, "")
	case errors.Is(err, signature.ErrIncomplete):
		return because(codes.incomplete, err.Error())
	case errors.Is(err, signature.ErrUnknownKey), errors.Is(err, signature.ErrToken):
		return because(codes.unknownKey, "")
	case errors.Is(err, signature.ErrMismatch):
		return because(codes.mismatch, "")
	case errors.Is(err, signature.ErrExpired):
		return because(codes.expired, err.Error())
	case errors.Is(err, signature.ErrTokenExpired):
		return because(codes.tokenExpired, "")
	}
	return because(codes.internal, "")
}

func newRequestID() string {
	var b [16]byte
	_, _ = rand.Read(b[:]) // never fails
	return fmt.Sprintf("%x-%x-%x-%x-%x", b[:4], b[4:6], b[6:8], b[8:10], b[10:])
}
