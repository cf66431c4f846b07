package query

import (
	"mime"
	"net/http"
	"net/url"
)

// Parameters reads a request's parameters: from the query of a GET, from the form of a POST. The errors are of type
// *Error.
func Parameters(r *http.Request, body []byte) (url.Values, error) {
	raw := r.URL.RawQuery
	switch r.Method {
	case http.MethodGet:
	case http.MethodPost:
		kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
		if err != nil || kind != "application/x-www-form-urlencoded" {
			return nil, Errorf("InvalidRequest", "A POST must be of type application/x-www-form-urlencoded")
		}
		if raw != "" {
			return nil, Errorf("InvalidRequest", "A POST must have its parameters in the body only")
		}
		raw = string(body)
	default:
		return nil, Errorf("InvalidRequest", "The method must be GET or POST")
	}
	form, err := url.ParseQuery(raw)
	if err != nil {
		return nil, Errorf("MalformedQueryString", "The parameters cannot be read: %v", err)
	}
	return form, nil
}
