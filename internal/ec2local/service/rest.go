package service

import (
	"cmp"
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
	// Malformed is the code of requests that cannot be read; BadRequest if empty.
	Malformed string
}

// Route is where an operation is found.
type Route struct {
	Action, Method string
	// Path has parameters in braces, such as /2015-02-01/file-systems/{FileSystemId}.
	Path string
	// Status is that of a success.
	Status int
	// Headers are parameters too: their names, by those of the headers.
	Headers map[string]string
	// Blob is the name of the parameter that is the body, as it is; if empty, the body is JSON.
	Blob string
}

// Headed is an answer that has something in headers.
type Headed interface {
	Headers() map[string]string
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
		return route.Action, func(into any) error {
			if err := route.decode(values, r, body, into); err != nil {
				return Errorf(http.StatusBadRequest, cmp.Or(p.Malformed, "BadRequest"), "%v", err)
			}
			return nil
		}, nil
	}
	return "", nil, errUnknownAction
}

// decode puts together what path, query, headers and body say. All but a body's numbers are strings: their fields have
// the option string.
func (r Route) decode(values map[string]string, req *http.Request, body []byte, into any) error {
	all := map[string]any{}
	if r.Blob != "" {
		all[r.Blob] = body // base64 until it is decoded
	} else if len(body) > 0 {
		if err := json.Unmarshal(body, &all); err != nil {
			return err
		}
	}
	for header, name := range r.Headers {
		if value := req.Header.Get(header); value != "" {
			all[name] = value
		}
	}
	for name := range req.URL.Query() {
		all[name] = req.URL.Query().Get(name)
	}
	for name, value := range values {
		all[name] = value
	}
	whole, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if e := (*Error)(nil); errors.As(decodeJSON(whole, into), &e) {
		return errors.New(e.Message)
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
