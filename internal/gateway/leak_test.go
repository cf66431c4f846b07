package gateway_test

import (
	"fmt"
	"net/url"
	"regexp"
)

// allowedUpstream is all that may ever reach the API server for the web pod's
// cell, written down a second time and in another way than the policy: a
// mistake would have to be made twice.
var allowedUpstream = []*regexp.Regexp{
	regexp.MustCompile(`^GET /api/v1/namespaces/shop/secrets/(password|pull)$`),
	regexp.MustCompile(`^GET /api/v1/namespaces/shop/configmaps/(settings|kube-root-ca\.crt)$`),
	regexp.MustCompile(`^GET /api/v1/namespaces/shop/persistentvolumeclaims/(data|web-scratch)$`),
	regexp.MustCompile(`^PATCH /api/v1/namespaces/shop/persistentvolumeclaims/(data|web-scratch)/status$`),
	regexp.MustCompile(`^GET /api/v1/persistentvolumes/(pv-data|pv-stolen)$`),
	regexp.MustCompile(`^GET /api/v1/namespaces/storage/secrets/stage-pv-data$`),
	regexp.MustCompile(`^GET /apis/storage\.k8s\.io/v1/volumeattachments/[a-z0-9.-]+$`),
	regexp.MustCompile(`^GET /api/v1/nodes/kip-provider-0$`), // for what is attached to it
	regexp.MustCompile(`^POST /api/v1/namespaces/shop/serviceaccounts/seller/token$`),
	regexp.MustCompile(`^POST /api/v1/namespaces/shop/events$`),
	regexp.MustCompile(`^POST /apis/events\.k8s\.io/v1/namespaces/shop/events$`),
	regexp.MustCompile(`^PATCH (/api/v1|/apis/events\.k8s\.io/v1)/namespaces/shop/events/[a-z0-9.-]+$`),
}

// allowedSelections are the lists and watches that may.
var allowedSelections = regexp.MustCompile(`^GET /api/v1/namespaces/(shop/secrets metadata\.name=(password|pull)|shop/configmaps metadata\.name=(settings|kube-root-ca\.crt)|storage/secrets metadata\.name=stage-pv-data)$`)

// allowedParameters are the query parameters that may be sent with them.
var allowedParameters = map[string]*regexp.Regexp{
	"fieldSelector":        regexp.MustCompile(`^metadata\.name=[a-z0-9.-]+$`),
	"watch":                regexp.MustCompile(`^true$`),
	"allowWatchBookmarks":  regexp.MustCompile(`^true$`),
	"sendInitialEvents":    regexp.MustCompile(`^(true|false)$`),
	"resourceVersion":      regexp.MustCompile(`^[0-9]+$`),
	"resourceVersionMatch": regexp.MustCompile(`^NotOlderThan$`),
	"timeoutSeconds":       regexp.MustCompile(`^[0-9]+$`),
}

// leak says what is wrong with a request, without query, that has reached the
// API server.
func leak(method, path string) string {
	line := method + " " + path
	for _, allowed := range allowedUpstream {
		if allowed.MatchString(line) {
			return ""
		}
	}
	return "not among what may reach it"
}

// leakWithQuery says what is wrong with a request with its query.
func leakWithQuery(method, path string, query url.Values) string {
	for key, values := range query {
		if pattern := allowedParameters[key]; pattern == nil || len(values) != 1 || !pattern.MatchString(values[0]) {
			return fmt.Sprintf("query parameter %s=%q", key, values)
		}
	}
	if len(query) == 0 {
		return leak(method, path)
	}
	if line := method + " " + path + " " + query.Get("fieldSelector"); !allowedSelections.MatchString(line) {
		return "a selection that may not reach it"
	}
	return ""
}
