package e2e

import (
	"context"
	"fmt"
	"regexp"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// forbidden is how the API server refuses something to Kip itself. What it
// refuses to Kip in the name of the virtual node is another matter.
var forbidden = regexp.MustCompile(`(?m)^.*forbidden: User \\*"(system:serviceaccount:kip:kip-(?:provider|image-cache))\\*".*$`)

// refused is what was wanted: the object's name, verb, resource, subresource, API
// group and namespace.
var refused = regexp.MustCompile(`(?:\\*"([^"\\]+)\\*" is )?forbidden: User \\*"[^"\\]+\\*" cannot (\w+) resource \\*"([^"\\/]+)/?([^"\\]*)\\*" in API group \\*"([^"\\]*)\\*"(?: in the namespace \\*"([^"\\]+)\\*")?`)

// lacking returns the first line of the log that tells of a right that Kip does
// not have. An API server that has just begun refuses what it grants a moment
// later, when it has read the roles; tests kill it. So it is asked once more.
func lacking(ctx context.Context, log []byte) (string, error) {
	granted := map[string]bool{}
	for _, line := range forbidden.FindAllSubmatch(log, -1) {
		what := refused.FindSubmatch(line[0])
		if what == nil {
			return string(line[0]), nil
		}
		key := string(line[1]) + string(what[0])
		if granted[key] {
			continue
		}
		review := &authorizationv1.SubjectAccessReview{Spec: authorizationv1.SubjectAccessReviewSpec{
			User: string(line[1]),
			ResourceAttributes: &authorizationv1.ResourceAttributes{
				Name: string(what[1]), Verb: string(what[2]), Resource: string(what[3]), Subresource: string(what[4]),
				Group: string(what[5]), Namespace: string(what[6]),
			},
		}}
		review, err := shared.kube.AuthorizationV1().SubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
		if err != nil {
			return "", fmt.Errorf("asking whether Kip may: %w", err)
		}
		if !review.Status.Allowed {
			return string(line[0]), nil
		}
		granted[key] = true
	}
	return "", nil
}
