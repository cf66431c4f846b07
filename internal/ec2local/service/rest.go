package service

import (
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"strings"
)

// REST is the protocol in which method and path say the operation, and bodies are JSON.
type REST struct {
	// Routes are the operations.
	Routes []Route
}

// Route is where an operation is found.
type Route struct {
	Action, Method string
	// Path has parameters in braces, such as /2015-02-01/file-systems/{FileSystemId}.
	Path string
	// Status is that of a success.
	Status int
}

// match tells whether a path is the route's, and the values of its parameters.
func (r Route) match(path string) (map[string]string, bool) {
	want, have := strings.Split(r.Path, "/"), strings.Split(path, "/")
	if len(want) != len(have) {
		return nil, false
	}
	values := map[string]string{}
	for n, part := range want {
		name, ok := strings.CutPrefix(part, "{")
		switch {
		case ok && have[n] != "":
			values[strings.TrimSuffix(name, "}")] = have[n]
		case part != have[n]:
			return nil, false
		}
	}
	return values, true
}

func (p REST) read(r *http.Request, body []byte) (string, func(any) error, error) {
	for _, route := range p.Routes {
		values, ok := route.match(r.URL.Path)
		if !ok || route.Method != r.Method {
			continue
		}
		return route.Action, func(into any) error { return decodeREST(values, r, body, into) }, nil
	}
	return "", nil, errUnknownAction
}

// decodeREST puts together what path, query and body say. Numbers of the query are strings: their fields have the
// option string.
func decodeREST(values map[string]string, r *http.Request, body []byte, into any) error {
	all := map[string]any{}
	if len(body) > 0 {
		if err := json.Unmarshal(body, &all); err != nil {
			return Errorf(http.StatusBadRequest, "BadRequest", "%v", err)
		}
	}
	for name := range r.URL.Query() {
		all[name] = r.URL.Query().Get(name)
	}
	for name, value := range values {
		all[name] = value
	}
	whole, err := json.Marshal(all)
	if err != nil {
		return err
	}
	var e *Error
	if err := decodeJSON(whole, into); errors.As(err, &e) {
		return Errorf(http.StatusBadRequest, "BadRequest", "%s", e.Message)
	}
	return nil
}

func (p REST) contentType() string { return "application/json" }

func (p REST) answer(out io.Writer, action, _ string, answer any) (int, error) {
	status := http.StatusOK
	for _, route := range p.Routes {
		if route.Action == action {
			status = route.Status
		}
	}
	if answer == nil {
		return status, nil
	}
	return status, json.NewEncoder(out).Encode(answer)
}

func (p REST) refuse(out io.Writer, header http.Header, _ string, e *Error) error {
	header["X-Amzn-ErrorType"] = []string{e.Code}
	body := map[string]string{"ErrorCode": e.Code, "Message": e.Message}
	for name, value := range e.Fields {
		body[name] = value
	}
	return json.NewEncoder(out).Encode(body)
}

func (p REST) codes() codes { return jsonCodes(http.StatusForbidden) }
