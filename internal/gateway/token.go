package gateway

import (
	"encoding/json"
	"fmt"
	"net/http"

	authenticationv1 "k8s.io/api/authentication/v1"
	storagev1 "k8s.io/api/storage/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

const (
	// defaultTokenSeconds is how long a token lives whose volume does not say,
	// and minTokenSeconds how long at least: the API's own numbers.
	defaultTokenSeconds = 3600
	minTokenSeconds     = 600
)

// createToken forwards the request for a token of the pod's service account,
// if the pod itself asks for such a token in one of its volumes. What is
// forwarded is made anew: nothing that was not understood is in it.
func (c *call) createToken() error {
	if c.pod == nil {
		return c.noPod()
	}
	if c.req.namespace != c.pod.Namespace || c.req.name != c.pod.Spec.ServiceAccountName {
		return refuse("it is not the service account of the pod of this cell")
	}
	var asked authenticationv1.TokenRequest
	if err := c.decodeBody(&asked, authenticationv1.SchemeGroupVersion.WithKind("TokenRequest")); err != nil {
		return err
	}
	bound := asked.Spec.BoundObjectRef
	if bound == nil || bound.Kind != "Pod" || bound.APIVersion != "v1" || bound.Name != c.pod.Name || bound.UID != c.pod.UID {
		return refuse("the token must be bound to the pod of this cell")
	}
	if len(asked.Spec.Audiences) > 1 {
		return refuse("a kubelet asks for a token for one audience at a time")
	}
	audience := ""
	if len(asked.Spec.Audiences) == 1 {
		audience = asked.Spec.Audiences[0]
	}
	limit, err := c.tokenSeconds(audience)
	if err != nil {
		return err
	}
	if limit == 0 {
		return refuse("no volume of the pod of this cell has a token for the audience %s", printable(audience))
	}
	seconds := limit
	if asked.Spec.ExpirationSeconds != nil {
		seconds = *asked.Spec.ExpirationSeconds
	}
	if seconds < minTokenSeconds || seconds > limit {
		return refuse("the token may live for %d to %d seconds", minTokenSeconds, limit)
	}

	request := authenticationv1.TokenRequest{
		TypeMeta: metav1.TypeMeta{APIVersion: authenticationv1.SchemeGroupVersion.String(), Kind: "TokenRequest"},
		Spec: authenticationv1.TokenRequestSpec{
			Audiences:         asked.Spec.Audiences,
			ExpirationSeconds: &seconds,
			BoundObjectRef: &authenticationv1.BoundObjectReference{
				APIVersion: "v1", Kind: "Pod", Name: c.pod.Name, UID: c.pod.UID,
			},
		},
	}
	body, err := json.Marshal(&request)
	if err != nil {
		return fmt.Errorf("encoding the token request: %w", err)
	}
	return c.forward(upstreamRequest{method: http.MethodPost, path: c.req.path(), contentType: mediaTypeJSON, body: body})
}

// tokenSeconds is the longest life of a token for an audience (empty: the API
// server's own) that the pod asks for in its volumes, in seconds; 0 if it asks
// for none.
func (c *call) tokenSeconds(audience string) (int64, error) {
	longest := int64(0)
	allow := func(seconds *int64) {
		s := int64(defaultTokenSeconds)
		if seconds != nil {
			s = *seconds
		}
		longest = max(longest, s)
	}
	for i := range c.pod.Spec.Volumes {
		if projected := c.pod.Spec.Volumes[i].Projected; projected != nil {
			for _, source := range projected.Sources {
				if t := source.ServiceAccountToken; t != nil && t.Audience == audience {
					allow(t.ExpirationSeconds)
				}
			}
		}
	}
	if longest > 0 {
		return longest, nil
	}

	// A CSI driver may ask for tokens of the pods whose volumes it mounts.
	drivers, err := c.csiDriversOfPod()
	if err != nil {
		return 0, err
	}
	for _, driver := range drivers {
		for _, t := range driver.Spec.TokenRequests {
			if t.Audience == audience {
				allow(t.ExpirationSeconds)
			}
		}
	}
	return longest, nil
}

// csiDriversOfPod are the CSI drivers that mount volumes of the pod.
func (c *call) csiDriversOfPod() ([]*storagev1.CSIDriver, error) {
	var names []string
	for i := range c.pod.Spec.Volumes {
		if csi := c.pod.Spec.Volumes[i].CSI; csi != nil {
			names = append(names, csi.Driver)
		}
	}
	volumes, err := c.csiVolumes()
	if err != nil {
		return nil, err
	}
	for _, v := range volumes {
		names = append(names, v.Spec.CSI.Driver)
	}
	var drivers []*storagev1.CSIDriver
	for _, name := range names {
		driver, err := c.csiDriver(name)
		if err != nil {
			return nil, err
		}
		if driver != nil {
			drivers = append(drivers, driver)
		}
	}
	return drivers, nil
}
