package service

import (
	"errors"
	"io"
	"net/http"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// Query is the Query protocol in a service's dialect.
type Query query.Wire

func (q Query) read(r *http.Request, body []byte) (string, func(any) error, error) {
	form, err := query.Parameters(r, body)
	if err != nil {
		return "", nil, invalid(err)
	}
	action := form.Get("Action")
	if version := form.Get("Version"); version != q.Version {
		return action, nil, Errorf(http.StatusBadRequest, "InvalidAction", "Could not find operation %s for version %s", action, version)
	}
	return action, func(into any) error { return invalid(query.Decode(form, into)) }, nil
}

// invalid is the refusal of a request that could not be read.
func invalid(err error) error {
	var e *query.Error
	if errors.As(err, &e) {
		return Errorf(http.StatusBadRequest, "ValidationError", "%s", e.Message)
	}
	return err
}

func (q Query) contentType() string { return "text/xml" }

func (q Query) answer(out io.Writer, action, requestID string, answer any) (int, error) {
	return http.StatusOK, query.Wire(q).EncodeAnswer(out, action, requestID, answer)
}

func (q Query) refuse(out io.Writer, _ http.Header, requestID string, e *Error) error {
	return query.Wire(q).EncodeError(out, requestID, &query.Error{Status: e.Status, Code: e.Code, Message: e.Message})
}

func (q Query) codes() codes {
	return codes{
		unsigned:      Error{Status: http.StatusForbidden, Code: "MissingAuthenticationToken", Message: "Request is missing Authentication Token"},
		incomplete:    Error{Status: http.StatusBadRequest, Code: "IncompleteSignature"},
		unknownKey:    Error{Status: http.StatusForbidden, Code: "InvalidClientTokenId", Message: "The security token included in the request is invalid."},
		mismatch:      Error{Status: http.StatusForbidden, Code: "SignatureDoesNotMatch", Message: "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."},
		expired:       Error{Status: http.StatusForbidden, Code: "SignatureDoesNotMatch"},
		tokenExpired:  Error{Status: http.StatusForbidden, Code: "ExpiredToken", Message: "The security token included in the request is expired"},
		denied:        Error{Status: http.StatusForbidden, Code: "AccessDenied"},
		internal:      Error{Status: http.StatusInternalServerError, Code: "InternalFailure", Message: "The request processing has failed because of an unknown error, exception or failure."},
		unknownAction: Error{Status: http.StatusBadRequest, Code: "InvalidAction", Message: "Could not find this operation"},
	}
}
