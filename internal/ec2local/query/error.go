package query

import (
	"fmt"
	"net/http"
)

// Error is an answer of the EC2 API that is not a success: one of EC2's error codes with a sentence for people.
type Error struct {
	// Status is the HTTP status.
	Status int
	// Code is EC2's, such as InvalidInstanceID.NotFound.
	Code string
	// Message is for people.
	Message string
}

// Error implements error.
func (e *Error) Error() string { return e.Code + ": " + e.Message }

// Errorf makes an Error. The HTTP status follows from the code, as in EC2.
func Errorf(code, format string, args ...any) *Error {
	return &Error{Status: statusOf(code), Code: code, Message: fmt.Sprintf(format, args...)}
}

// statusOf is the HTTP status EC2 sends with a code. Nearly all of them blame the client with 400; capacity, oddly, is
// a server error there, which makes SDKs repeat the call by themselves.
func statusOf(code string) int {
	switch code {
	case "AuthFailure", "MissingAuthenticationToken":
		return http.StatusUnauthorized
	case "UnauthorizedOperation", "OptInRequired":
		return http.StatusForbidden
	case "DryRunOperation":
		return http.StatusPreconditionFailed
	case "InsufficientInstanceCapacity", "InsufficientHostCapacity", "InternalError", "InternalFailure":
		return http.StatusInternalServerError
	case "RequestLimitExceeded", "ServiceUnavailable", "Unavailable":
		return http.StatusServiceUnavailable
	}
	return http.StatusBadRequest
}
