package service

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strconv"
	"strings"
	"time"

	strictjson "sigs.k8s.io/json"
)

// JSON is the protocol awsJson1.1: the operation stands in a header, behind the name of the service's interface.
type JSON struct {
	// Target is the name of the interface, such as AmazonSSM.
	Target string
}

func (j JSON) read(r *http.Request, body []byte) (string, func(any) error, error) {
	action, ok := strings.CutPrefix(r.Header.Get("X-Amz-Target"), j.Target+".")
	if !ok || r.Method != http.MethodPost {
		return "", nil, errUnknownAction
	}
	return action, func(into any) error { return decodeJSON(body, into) }, nil
}

// decodeJSON reads a body in which everything is known.
func decodeJSON(body []byte, into any) error {
	problems, err := strictjson.UnmarshalStrict(body, into)
	if err != nil {
		return Errorf(http.StatusBadRequest, "SerializationException", "%v", err)
	}
	if err := errors.Join(problems...); err != nil {
		return Errorf(http.StatusBadRequest, "ValidationException", "%v", err)
	}
	return nil
}

func (j JSON) contentType() string { return "application/x-amz-json-1.1" }

func (j JSON) answer(out io.Writer, _, _ string, answer any) (int, error) {
	if answer == nil {
		answer = struct{}{}
	}
	return http.StatusOK, json.NewEncoder(out).Encode(answer)
}

func (j JSON) refuse(out io.Writer, _ http.Header, _ string, e *Error) error {
	return json.NewEncoder(out).Encode(map[string]string{"__type": e.Code, "message": e.Message})
}

func (j JSON) codes() codes { return jsonCodes(http.StatusBadRequest) }

// jsonCodes are the codes of services that speak JSON; what concerns the signature has one status.
func jsonCodes(status int) codes {
	return codes{
		unsigned:      Error{Status: status, Code: "MissingAuthenticationTokenException", Message: "Missing Authentication Token"},
		incomplete:    Error{Status: status, Code: "IncompleteSignatureException"},
		unknownKey:    Error{Status: status, Code: "UnrecognizedClientException", Message: "The security token included in the request is invalid."},
		mismatch:      Error{Status: status, Code: "InvalidSignatureException", Message: "The request signature we calculated does not match the signature you provided. Check your AWS Secret Access Key and signing method. Consult the service documentation for details."},
		expired:       Error{Status: status, Code: "InvalidSignatureException"},
		tokenExpired:  Error{Status: status, Code: "ExpiredTokenException", Message: "The security token included in the request is expired"},
		denied:        Error{Status: status, Code: "AccessDeniedException"},
		internal:      Error{Status: http.StatusInternalServerError, Code: "InternalFailure", Message: "The request processing has failed because of an unknown error, exception or failure."},
		unknownAction: Error{Status: http.StatusBadRequest, Code: "UnknownOperationException", Message: "The requested operation is not known"},
	}
}

// Epoch is a time in these protocols: seconds since 1970.
type Epoch time.Time

// MarshalJSON implements [json.Marshaler].
func (e Epoch) MarshalJSON() ([]byte, error) {
	return strconv.AppendFloat(nil, float64(time.Time(e).UnixMilli())/1000, 'f', -1, 64), nil
}

// UnmarshalJSON implements [json.Unmarshaler].
func (e *Epoch) UnmarshalJSON(raw []byte) error {
	seconds, err := strconv.ParseFloat(string(raw), 64)
	if err != nil {
		return err
	}
	*e = Epoch(time.UnixMilli(int64(seconds * 1000)).UTC())
	return nil
}
