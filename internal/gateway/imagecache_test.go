package gateway_test

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"testing"

	"github.com/google/go-cmp/cmp"
	corev1 "k8s.io/api/core/v1"

	"github.com/elotl/kip/v2/internal/gateway"
	cachegrant "github.com/elotl/kip/v2/internal/imagecache/grant"
	"github.com/elotl/kip/v2/internal/imagecache/layer"
)

// imageCache gives everybody the same, and remembers who asked.
type imageCache struct {
	answer cachegrant.Answer
	err    error
	asked  []string
}

func (c *imageCache) Grant(_ context.Context, pod *corev1.Pod, q cachegrant.Question) (cachegrant.Answer, error) {
	c.asked = append(c.asked, pod.Name+" "+q.Image+" "+q.Manifest)
	return c.answer, c.err
}

func question(image string) string { return `{"image":"` + image + `","manifest":"sha256:00"}` }

func TestImageCacheGrants(t *testing.T) {
	cache := &imageCache{answer: cachegrant.Answer{Layers: []layer.Layer{{Digest: "sha256:11", Path: "v1/layers/00/00", Size: 5, Key: layer.Key{7}}}}}
	h := newHarness(t, func(c *gateway.Config) { c.ImageCache = cache })
	if code, body := h.do(t, "POST", cachegrant.Path, question("docker.io/library/web:1")); code != http.StatusForbidden {
		t.Errorf("a standby cell: %d %s", code, body)
	}
	pod := pullingPod()
	pod.Spec.Containers[0].Image = "web:1"
	h.State.Bind(cell, pod)
	for name, tc := range map[string]struct {
		reason string
		image  string
		given  bool
	}{
		"Container":      {"the short name's whole one, which containerd uses", "docker.io/library/web:1", true},
		"AsWritten":      {"the short name itself", "web:1", true},
		"Init":           {"by digest, which is no digest here", "init.example.com:5000/tools/first@sha256:00", false},
		"Ephemeral":      {"without a tag it is latest", "debug.example.com/shell:latest", true},
		"Volume":         {"an image as a volume", "volume.example.com/model:2", true},
		"OtherTag":       {"another image of the same repository", "docker.io/library/web:2", false},
		"OtherRegistry":  {"the same path elsewhere", "other.example.com/library/web:1", false},
		"OtherPodsImage": {"that of another pod", "secret.example.com/vault:1", false},
		"Empty":          {"no image at all", "", false},
	} {
		t.Run(name, func(t *testing.T) {
			before := len(cache.asked)
			code, body := h.do(t, "POST", cachegrant.Path, question(tc.image))
			if !tc.given {
				if code != http.StatusForbidden || len(cache.asked) != before {
					t.Errorf("%s: %d %s; asked %v", tc.reason, code, body, cache.asked[before:])
				}
				return
			}
			var got cachegrant.Answer
			if err := json.Unmarshal([]byte(body), &got); code != http.StatusOK || err != nil {
				t.Fatalf("%s: %d %s, %v", tc.reason, code, body, err)
			}
			if diff := cmp.Diff(cache.answer, got); diff != "" {
				t.Errorf("%s: -want +got:\n%s", tc.reason, diff)
			}
			if want := pod.Name + " " + tc.image + " sha256:00"; cache.asked[before] != want {
				t.Errorf("%s: asked %q instead of %q", tc.reason, cache.asked[before], want)
			}
		})
	}
	for name, body := range map[string]string{"Field": `{"image":"web:1","manifest":"","x":1}`, "NoObject": `[]`, "Twice": question("web:1") + "{}"} {
		if code, answer := h.do(t, "POST", cachegrant.Path, body); code != http.StatusBadRequest {
			t.Errorf("%s: %d %s", name, code, answer)
		}
	}
	cache.err = errors.New("the master key is 42")
	if code, body := h.do(t, "POST", cachegrant.Path, question("web:1")); code != http.StatusInternalServerError || body == "" {
		t.Errorf("an error that is none of the cell's business: %d %s", code, body)
	}
}

// TestNoImageCache: cells ask, and are told that there is nothing.
func TestNoImageCache(t *testing.T) {
	h := newHarness(t)
	h.State.Bind(cell, pullingPod())
	if code, body := h.do(t, "POST", cachegrant.Path, question("main.example.com/web:1")); code != http.StatusOK || body != "{}\n" {
		t.Errorf("%d %q", code, body)
	}
}
