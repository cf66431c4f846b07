package kip

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/url"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/wait"
	"k8s.io/client-go/kubernetes"

	"github.com/elotl/kip/v2/internal/pki"
)

// askAgain is how often an API server that does not answer is asked.
var askAgain = wait.Backoff{Duration: time.Second, Factor: 1.5, Steps: 6, Cap: 10 * time.Second}

// firstAnswers are what Kip must know of the cluster before it can start: the
// version that its node reports, and its certificate authority. An API server
// that does not answer is waited for until ctx ends: on a node that is just
// booting Kip may be there before the node's way to the API server. One that
// refuses is an error.
func firstAnswers(ctx context.Context, kube kubernetes.Interface, namespace string, pause wait.Backoff, log *slog.Logger) (version string, ca *pki.Authorities, err error) {
	err = pause.DelayFunc().Until(ctx, true, false, func(ctx context.Context) (bool, error) {
		v, err := kube.Discovery().ServerVersion()
		if err == nil {
			version = v.GitVersion
			ca, err = authority(ctx, kube, namespace)
		} else {
			err = fmt.Errorf("asking the API server for its version: %w", err)
		}
		if err != nil && unanswered(err) {
			log.Warn("the API server does not answer; Kip waits for it", "err", err)
			return false, nil
		}
		return true, err
	})
	return version, ca, err
}

// unanswered tells that there was no answer, or one that says to ask again.
func unanswered(err error) bool {
	var status apierrors.APIStatus
	if errors.As(err, &status) {
		code := status.Status().Code
		return code >= http.StatusInternalServerError || code == http.StatusTooManyRequests
	}
	var failed *url.Error
	return errors.As(err, &failed)
}
