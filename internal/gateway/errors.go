package gateway

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strconv"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"

	"github.com/elotl/kip/v2/internal/gateway/watchcache"
)

// refusal is the error of a request that the policy does not allow. It becomes
// a 403 that says why and is counted as refused.
type refusal struct{ sentence string }

func (r *refusal) Error() string { return r.sentence }

// refuse makes a refusal. The sentence ends in no full stop.
func refuse(format string, args ...any) error { return &refusal{fmt.Sprintf(format, args...)} }

// invalid makes the error of a request that is allowed but wrong: 400.
func invalid(format string, args ...any) error {
	return apierrors.NewBadRequest(fmt.Sprintf(format, args...))
}

// unavailable makes the error of a request that will be answered later: 503.
// Clients try again after a second, and do not back off further and further.
func unavailable(format string, args ...any) error {
	err := apierrors.NewServiceUnavailable(fmt.Sprintf(format, args...))
	err.ErrStatus.Details = &metav1.StatusDetails{RetryAfterSeconds: 1}
	return err
}

// statusKind is the kind of every answer that is no object.
var statusKind = schema.GroupVersionKind{Version: "v1", Kind: "Status"}

// statusOf is the API status that an error is answered with. What is no API
// error is not told to the cell: it could name things the cell must not know.
func statusOf(err error, resource schema.GroupResource, name string) *metav1.Status {
	var (
		refused *refusal
		status  apierrors.APIStatus
		answer  metav1.Status
		tooBig  *http.MaxBytesError
	)
	switch {
	case errors.As(err, &refused):
		answer = apierrors.NewForbidden(resource, name, refused).Status()
		if resource.Empty() {
			answer.Message = "forbidden: " + refused.sentence
		}
	case errors.Is(err, watchcache.ErrExpired):
		answer = apierrors.NewResourceExpired(err.Error()).Status()
	case errors.As(err, &tooBig):
		answer = apierrors.NewRequestEntityTooLargeError(fmt.Sprintf("the limit is %d bytes", tooBig.Limit)).Status()
	case errors.As(err, &status):
		answer = status.Status()
	default:
		answer = apierrors.NewInternalError(errors.New("the request could not be answered; Kip's log says why")).Status()
	}
	answer.SetGroupVersionKind(statusKind)
	return &answer
}

// writeStatus answers a request with a status.
func writeStatus(w http.ResponseWriter, status *metav1.Status) {
	w.Header().Set("Content-Type", "application/json")
	if status.Details != nil && status.Details.RetryAfterSeconds > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(status.Details.RetryAfterSeconds)))
	}
	code := int(status.Code)
	if code < 200 || code > 599 {
		code = http.StatusInternalServerError
	}
	w.WriteHeader(code)
	// The client is gone if this fails.
	_ = json.NewEncoder(w).Encode(status)
}

// writeSuccess answers a request that has no object as its answer.
func writeSuccess(w http.ResponseWriter) {
	status := &metav1.Status{Status: metav1.StatusSuccess, Code: http.StatusOK}
	status.SetGroupVersionKind(statusKind)
	writeStatus(w, status)
}
