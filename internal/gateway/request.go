package gateway

import (
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/util/sets"
	apirequest "k8s.io/apiserver/pkg/endpoints/request"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// request is what a cell asks for, understood completely: nothing of the HTTP
// request besides this and, where the policy says so, its body is ever looked
// at again, and what goes to the API server is made anew from it.
type request struct {
	verb        string // get, list, watch, create, update, patch, delete, deletecollection
	resource    schema.GroupVersionResource
	subresource string
	namespace   string // empty: cluster-scoped, or all namespaces
	name        string // empty for list, watch, create and deletecollection
	options     options
}

// options are a request's query parameters.
type options struct {
	fieldSelector        fields.Selector // never nil
	labelSelector        labels.Selector // never nil
	resourceVersion      string
	resourceVersionMatch metav1.ResourceVersionMatch
	allowBookmarks       bool
	sendInitialEvents    *bool
	timeout              time.Duration // of a watch; 0 if none was asked for
}

// requestInfo understands paths as the API server does.
var requestInfo = &apirequest.RequestInfoFactory{
	APIPrefixes:          sets.NewString("api", "apis"),
	GrouplessAPIPrefixes: sets.NewString("api"),
}

// methods are the ones that a policy row can name. HEAD, OPTIONS, CONNECT and
// whatever else there is are not among them.
var methods = []string{http.MethodGet, http.MethodPost, http.MethodPut, http.MethodPatch, http.MethodDelete}

// forbiddenHeaders are ones that would say who somebody is, or make something
// else than a request out of the request. None is ever passed on; a cell that
// sends one is up to something.
var forbiddenHeaders = []string{"Upgrade", "X-Http-Method-Override", "X-Http-Method", "X-Method-Override", "X-Original-Url", "X-Rewrite-Url"}

// forbiddenHeaderPrefixes are the same, for families of headers.
var forbiddenHeaderPrefixes = []string{"Impersonate-", "X-Remote-"}

// parseRequest understands an API request or refuses it. There is one
// spelling of every request; any other is refused, so that this function and
// the API server cannot understand it differently.
func parseRequest(r *http.Request) (*request, error) {
	if err := checkHeaders(r); err != nil {
		return nil, err
	}
	query, err := parseQuery(r.URL)
	if err != nil {
		return nil, err
	}
	// The factory is shown no more of the query than it needs to tell a watch
	// from a list: it would log what it does not understand.
	plain := &http.Request{Method: r.Method, URL: &url.URL{Path: r.URL.Path}}
	if watching, ok := query["watch"]; ok {
		b, err := parseBool(watching)
		if err != nil {
			return nil, invalid("the query parameter watch is not valid: %v", err)
		}
		plain.URL.RawQuery = "watch=" + strconv.FormatBool(b)
	}
	info, err := requestInfo.NewRequestInfo(plain)
	if err != nil {
		return nil, refuse("the path is not one of the Kubernetes API: %v", err)
	}
	if !info.IsResourceRequest {
		return nil, refuse("%s is not a resource of the Kubernetes API", printable(r.URL.Path))
	}
	if len(info.Parts) > 3 {
		return nil, refuse("the path has more parts than a subresource")
	}
	req := &request{
		verb:        info.Verb,
		resource:    schema.GroupVersionResource{Group: info.APIGroup, Version: info.APIVersion, Resource: info.Resource},
		subresource: info.Subresource,
		namespace:   info.Namespace,
	}
	if len(info.Parts) > 1 {
		// Not info.Name, which may come from a field selector.
		req.name = info.Parts[1]
	}
	if req.path() != r.URL.Path {
		return nil, refuse("the path %s is not in its plain form", printable(r.URL.Path))
	}
	for what, value := range map[string]string{"name": req.name, "namespace": req.namespace} {
		if value != "" && !isObjectName(value) {
			return nil, refuse("the %s is not one that an object can have", what)
		}
	}
	if err := req.parseOptions(query); err != nil {
		return nil, err
	}
	return req, nil
}

// checkHeaders refuses what is no plain request in its plain form.
func checkHeaders(r *http.Request) error {
	if !slices.Contains(methods, r.Method) {
		return refuse("the method %s is not used by a kubelet", printable(r.Method))
	}
	for header := range r.Header {
		canonical := http.CanonicalHeaderKey(header)
		if slices.Contains(forbiddenHeaders, canonical) ||
			slices.ContainsFunc(forbiddenHeaderPrefixes, func(p string) bool { return strings.HasPrefix(canonical, p) }) {
			return refuse("the header %s is not allowed", printable(canonical))
		}
	}
	for _, value := range r.Header.Values("Connection") {
		if strings.Contains(strings.ToLower(value), "upgrade") {
			return refuse("a connection cannot be upgraded here")
		}
	}
	if len(r.Trailer) > 0 {
		return refuse("trailers are not allowed")
	}
	u := r.URL
	if u.IsAbs() || u.Host != "" || u.User != nil || u.Opaque != "" || u.Fragment != "" {
		return refuse("the request is not for a path")
	}
	if u.RawPath != "" || u.EscapedPath() != u.Path {
		return refuse("the path is encoded")
	}
	return nil
}

// maxParameter is how long a query parameter may be, in bytes. A selector is
// matched against every change, for as long as a watch lasts.
const maxParameter = 4 * kib

// parseQuery reads query parameters that are each given once.
func parseQuery(u *url.URL) (map[string]string, error) {
	if u.RawQuery == "" {
		return nil, nil
	}
	values, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, refuse("the query cannot be understood")
	}
	query := make(map[string]string, len(values))
	for key, value := range values {
		if len(value) != 1 {
			return nil, refuse("the query parameter %s is given more than once", printable(key))
		}
		if len(value[0]) > maxParameter {
			return nil, refuse("the query parameter %s is too long", printable(key))
		}
		query[key] = value[0]
	}
	return query, nil
}

// parameters are the query parameters that each verb may have. What is not
// here is refused, not ignored: dryRun, for one, would be a lie.
var parameters = map[string][]string{
	"get":              {"resourceVersion", "timeout"},
	"list":             listParameters,
	"watch":            listParameters,
	"create":           {"fieldManager", "fieldValidation", "timeout"},
	"update":           {"fieldManager", "fieldValidation", "timeout"},
	"patch":            {"fieldManager", "fieldValidation", "timeout"},
	"delete":           {"timeout"},
	"deletecollection": {"fieldSelector", "timeout"},
}

var listParameters = []string{
	"allowWatchBookmarks", "fieldSelector", "labelSelector", "limit", "resourceVersion",
	"resourceVersionMatch", "sendInitialEvents", "timeout", "timeoutSeconds", "watch",
}

func (req *request) parseOptions(query map[string]string) error {
	req.options = options{fieldSelector: fields.Everything(), labelSelector: labels.Everything()}
	o := &req.options
	for key, value := range query {
		if !slices.Contains(parameters[req.verb], key) {
			return refuse("the query parameter %s is not allowed with %s", printable(key), req.verb)
		}
		var err error
		switch key {
		case "allowWatchBookmarks":
			o.allowBookmarks, err = parseBool(value)
		case "sendInitialEvents":
			var b bool
			b, err = parseBool(value)
			o.sendInitialEvents = &b
		case "fieldSelector":
			o.fieldSelector, err = fields.ParseSelector(value)
		case "labelSelector":
			o.labelSelector, err = labels.Parse(value)
		case "resourceVersion":
			if value != "" {
				if _, ok := watchcache.ParseVersion(value); !ok {
					err = fmt.Errorf("it is not a number")
				}
			}
			o.resourceVersion = value
		case "resourceVersionMatch":
			o.resourceVersionMatch = metav1.ResourceVersionMatch(value)
			if value != "" && o.resourceVersionMatch != metav1.ResourceVersionMatchNotOlderThan {
				err = fmt.Errorf("only NotOlderThan is served")
			}
		case "timeoutSeconds":
			var seconds uint64
			seconds, err = strconv.ParseUint(value, 10, 31)
			o.timeout = time.Duration(seconds) * time.Second
		case "timeout":
			_, err = time.ParseDuration(value) // the client's own patience
		case "limit":
			_, err = strconv.ParseUint(value, 10, 31) // every list is served whole
		}
		if err != nil {
			return invalid("the query parameter %s is not valid: %v", printable(key), err)
		}
	}
	if o.sendInitialEvents != nil {
		if req.verb != "watch" {
			return invalid("sendInitialEvents is only allowed with a watch")
		}
		if o.resourceVersionMatch != metav1.ResourceVersionMatchNotOlderThan {
			return invalid("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
		}
	}
	return nil
}

func parseBool(value string) (bool, error) {
	switch value {
	case "true", "1":
		return true, nil
	case "false", "0":
		return false, nil
	}
	return false, fmt.Errorf("it is neither true nor false")
}

// path is the one spelling of the request's path.
func (req *request) path() string {
	var b strings.Builder
	if req.resource.Group == "" {
		b.WriteString("/api/")
	} else {
		b.WriteString("/apis/" + req.resource.Group + "/")
	}
	b.WriteString(req.resource.Version)
	if req.namespace != "" {
		b.WriteString("/namespaces/" + req.namespace)
	}
	b.WriteString("/" + req.resource.Resource)
	if req.name != "" {
		b.WriteString("/" + req.name)
	}
	if req.subresource != "" {
		b.WriteString("/" + req.subresource)
	}
	return b.String()
}

// selectedName is the name that a list or watch is restricted to by a field
// selector of exactly metadata.name=NAME, the way a kubelet watches a Secret.
func (req *request) selectedName() (string, bool) {
	requirements := req.options.fieldSelector.Requirements()
	if len(requirements) != 1 || !req.options.labelSelector.Empty() {
		return "", false
	}
	name, ok := req.options.fieldSelector.RequiresExactMatch(metav1.ObjectNameField)
	return name, ok && isObjectName(name)
}

// upstreamQuery is the query to send to the API server with a list or watch of
// the one object name.
func (req *request) upstreamQuery(name string) url.Values {
	o := req.options
	query := url.Values{"fieldSelector": {metav1.ObjectNameField + "=" + name}}
	if o.resourceVersion != "" {
		query.Set("resourceVersion", o.resourceVersion)
	}
	if o.resourceVersionMatch != "" {
		query.Set("resourceVersionMatch", string(o.resourceVersionMatch))
	}
	if req.verb != "watch" {
		return query
	}
	query.Set("watch", "true")
	if o.allowBookmarks {
		query.Set("allowWatchBookmarks", "true")
	}
	if o.sendInitialEvents != nil {
		query.Set("sendInitialEvents", strconv.FormatBool(*o.sendInitialEvents))
	}
	if o.timeout > 0 {
		query.Set("timeoutSeconds", strconv.Itoa(int(o.timeout/time.Second)))
	}
	return query
}

// printable quotes what a cell sent for a message or a log line.
func printable(s string) string {
	if len(s) > 80 {
		s = s[:80] + "..."
	}
	return strconv.QuoteToASCII(s)
}
