package e2e

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ecr"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/api/v1beta1"
	"github.com/elotl/kip/v2/internal/ec2local/meteringapi"
)

// ecrHost is the account's private registry.
const ecrHost = "123456789012.dkr.ecr.us-west-2.amazonaws.com"

// pushToECR makes a repository and pushes an image to it as the owner of the
// account does, past Kip. It returns the image's name.
func (s *space) pushToECR(image v1.Image, repository string) string {
	s.Helper()
	ctx := s.Context()
	if _, err := shared.cloud.ecr.CreateRepository(ctx, &ecr.CreateRepositoryInput{RepositoryName: &repository}); err != nil {
		s.Fatal(err)
	}
	s.Cleanup(func() {
		if _, err := shared.cloud.ecr.DeleteRepository(context.Background(), &ecr.DeleteRepositoryInput{RepositoryName: &repository, Force: true}); err != nil {
			s.Error(err)
		}
	})
	got, err := shared.cloud.ecr.GetAuthorizationToken(ctx, &ecr.GetAuthorizationTokenInput{})
	if err != nil {
		s.Fatal(err)
	}
	token, err := base64.StdEncoding.DecodeString(*got.AuthorizationData[0].AuthorizationToken)
	if err != nil {
		s.Fatal(err)
	}
	user, password, _ := strings.Cut(string(token), ":")
	to, err := name.ParseReference(strings.TrimPrefix(shared.cloud.url, "http://")+"/"+repository+":latest", name.Insecure)
	if err != nil {
		s.Fatal(err)
	}
	if err := remote.Write(to, image, remote.WithAuth(&authn.Basic{Username: user, Password: password}), remote.WithContext(ctx)); err != nil {
		s.Fatal(err)
	}
	return ecrHost + "/" + repository + ":latest"
}

// TestECR pulls from the account's private registry, which lets in nobody but
// those who have a password of ECR's. Nothing of the pod or of its cell has one:
// Kip gets it with its own role, and the policy that ships allows the pull.
func TestECR(t *testing.T) {
	t.Parallel()
	s := newSpace(t)
	const repository = "team/server"
	image := s.pushToECR(images[testImage], repository)
	req, err := http.NewRequestWithContext(t.Context(), http.MethodGet, shared.cloud.url+"/v2/"+repository+"/manifests/latest", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusUnauthorized {
		t.Fatalf("the registry answers %s to somebody without a password", resp.Status)
	}
	container := small("main", image)
	container.Args = []string{"serve"}
	s.create(newPod("pulls", container))
	s.awaitReady("pulls")
	allowed, _, err := shared.cloud.calls(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, action := range []string{"ecr:GetAuthorizationToken", "ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"} {
		if allowed[action] == 0 {
			t.Errorf("the image was pulled without %s of Kip's role: %v", action, allowed)
		}
	}
	if shared.ImageCache {
		// By the role of the cache's own controller.
		s.awaitCached(image)
	}
}

const product = "kip-e2e"

// TestMetering has Kip paid by the cell-hour. That an hour passed is told to it
// by what it left itself: two cell-hours and a half that a Kip before it counted.
func TestMetering(t *testing.T) {
	s := newSpace(t)
	past := time.Now().UTC().Truncate(time.Hour).Add(-2 * time.Hour)
	usages := shared.kube.CoreV1().ConfigMaps("kip")
	const name = "kip-usage-kip-provider-0"
	if _, err := usages.Create(t.Context(), &corev1.ConfigMap{
		ObjectMeta: metav1.ObjectMeta{Name: name},
		Data: map[string]string{"usage.json": fmt.Sprintf(`{"began": %[1]q, "closed": %[1]q, "seconds": {%[1]q: 9000}}`,
			past.Format(time.RFC3339))},
	}, metav1.CreateOptions{}); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(shared.Dir, "provider.yaml")
	unpaid, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		useProviderConfig(s, path, unpaid)
		if err := usages.Delete(context.Background(), name, metav1.DeleteOptions{}); err != nil {
			t.Error(err)
		}
	})
	const region = "    region: us-west-2\n"
	paid := bytes.Replace(unpaid, []byte(region), []byte(region+"    marketplace: {productCode: "+product+"}\n"), 1)
	if bytes.Equal(paid, unpaid) {
		t.Fatalf("%s does not say the region", path)
	}
	useProviderConfig(s, path, paid)

	s.eventually("Kip registers its use and reports the hour", func(ctx context.Context) error {
		var state meteringapi.State
		if err := shared.cloud.command(ctx, http.MethodGet, "marketplace", nil, &state); err != nil {
			return err
		}
		for _, r := range state.Records {
			if r.Product == product && r.Dimension == "CellHours" && r.Hour.Equal(past) && r.Quantity == 2 && state.Registrations[product] > 0 {
				return nil
			}
		}
		return fmt.Errorf("there is %+v", state)
	})
	s.create(newPod("before", shell("main", forever)))
	running := s.awaitReady("before")

	setEntitled(s, "CustomerNotEntitledException")
	t.Cleanup(func() { setEntitled(s, "") })
	useProviderConfig(s, path, append(bytes.Clone(paid), "# Kip asks when it starts, and every few minutes.\n"...))
	s.create(newPod("refused", shell("main", forever)))
	s.awaitCause("refused", v1beta1.ReasonNotEntitled, "aws-marketplace:RegisterUsage", "CustomerNotEntitledException")
	still, err := s.pod(t.Context(), "before")
	if err != nil {
		t.Fatal(err)
	}
	if was, is := running.Status.ContainerStatuses[0].ContainerID, still.Status.ContainerStatuses[0]; is.ContainerID != was || is.State.Running == nil {
		t.Errorf("a pod that ran when the product was refused: %+v", is)
	}

	setEntitled(s, "")
	useProviderConfig(s, path, paid)
	s.awaitReady("refused")
	s.delete("before")
	s.eventually("what was used by a Cell that is gone is written down", func(ctx context.Context) error {
		stored, err := usages.Get(ctx, name, metav1.GetOptions{})
		if err != nil {
			return err
		}
		var usage struct {
			Seconds      map[time.Time]int64
			CarrySeconds int64
			Counted      map[string]time.Time
		}
		if err := json.Unmarshal([]byte(stored.Data["usage.json"]), &usage); err != nil {
			return err
		}
		// Of the two and a half hours half a one is left, whatever came to it.
		if len(usage.Counted) == 0 || usage.CarrySeconds < 1800 {
			return fmt.Errorf("there is %+v", usage)
		}
		return nil
	})
}

// setEntitled has the product's use refused with a code; "" for not at all.
func setEntitled(s *space, code string) {
	s.Helper()
	refused := map[string]string{}
	if code != "" {
		refused[product] = code
	}
	if err := shared.cloud.command(context.Background(), http.MethodPut, "marketplace", refused, nil); err != nil {
		s.Fatal(err)
	}
}
