package cell

import (
	"time"

	"k8s.io/client-go/util/workqueue"
)

// longestRetry is soon enough after an API server that was away:
// controller-runtime's default would come back a quarter of an hour later.
const longestRetry = 15 * time.Second

// Retries backs off per object only, and not for long.
func Retries[T comparable](first time.Duration) workqueue.TypedRateLimiter[T] {
	return workqueue.NewTypedItemExponentialFailureRateLimiter[T](first, longestRetry)
}
