package ec2local

import (
	"encoding/base64"
	"encoding/json"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/url"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/go-cmp/cmp"
	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	"github.com/google/go-containerregistry/pkg/registry"
	"github.com/google/go-containerregistry/pkg/v1/random"
	"github.com/google/go-containerregistry/pkg/v1/remote"
	"github.com/google/go-containerregistry/pkg/v1/validate"

	"github.com/elotl/kip/v2/internal/ec2local/meteringapi"
)

// administrator is the AWS CLI with all rights.
func (e *endpoint) administrator(t *testing.T) *servicesCLI {
	t.Helper()
	return e.cli(t, aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret})
}

// tried checks that every operation of a service was answered, so that the recorder saw all answers.
func (e *endpoint) tried(t *testing.T, service string) {
	t.Helper()
	for _, op := range e.operations(t, service) {
		if !e.recorder.Operations(service)[op] {
			t.Errorf("%s of %s was not tried", op, service)
		}
	}
}

func TestECR(t *testing.T) {
	e := start(t, nil)
	admin := e.administrator(t)
	var got struct {
		AuthorizationData []struct{ AuthorizationToken, ExpiresAt, ProxyEndpoint string }
	}
	admin.run(t, &got, "ecr", "get-authorization-token")
	if len(got.AuthorizationData) != 1 {
		t.Fatalf("got %+v", got)
	}
	d := got.AuthorizationData[0]
	raw, err := base64.StdEncoding.DecodeString(d.AuthorizationToken)
	user, password, _ := strings.Cut(string(raw), ":")
	if err != nil || user != "AWS" || len(password) < 32 {
		t.Errorf("the token is %q, %v", raw, err)
	}
	expires, err := time.Parse(time.RFC3339, d.ExpiresAt)
	if left := time.Until(expires); err != nil || left < 11*time.Hour || left > 12*time.Hour {
		t.Errorf("it expires at %s", d.ExpiresAt)
	}
	if want := "https://123456789012.dkr.ecr.us-west-2.amazonaws.com"; d.ProxyEndpoint != want {
		t.Errorf("it is for %s", d.ProxyEndpoint)
	}
	admin.refused(t, "InvalidParameterException", "ecr", "get-authorization-token", "--registry-ids", "x")

	var made struct {
		Repository struct{ RepositoryArn, RepositoryURI string }
	}
	admin.run(t, &made, "ecr", "create-repository", "--repository-name", "elotl/kip")
	if r := made.Repository; r.RepositoryArn != "arn:aws:ecr:us-west-2:123456789012:repository/elotl/kip" || "https://"+r.RepositoryURI != d.ProxyEndpoint+"/elotl/kip" {
		t.Errorf("the repository is %+v", r)
	}
	admin.refused(t, "RepositoryAlreadyExistsException", "ecr", "create-repository", "--repository-name", "elotl/kip")
	for _, name := range []string{"Kip", "kip/", "-kip", "kip:1.0", "k..p"} {
		admin.refused(t, "InvalidParameterException", "ecr", "create-repository", "--repository-name="+name)
	}
	e.restart(t)
	admin = e.administrator(t)
	for name, args := range map[string][]string{"all": nil, "by name": {"--repository-names", "elotl/kip"}} {
		var names []string
		admin.run(t, &names, append([]string{"ecr", "describe-repositories", "--query", "repositories[].repositoryName"}, args...)...)
		if diff := cmp.Diff([]string{"elotl/kip"}, names); diff != "" {
			t.Errorf("%s (-want +got)\n%s", name, diff)
		}
	}
	admin.refused(t, "RepositoryNotFoundException", "ecr", "describe-repositories", "--repository-names", "elotl/kip", "other")
	admin.run(t, nil, "ecr", "delete-repository", "--repository-name", "elotl/kip")
	admin.refused(t, "RepositoryNotFoundException", "ecr", "delete-repository", "--repository-name", "elotl/kip")
	e.tried(t, "ecr")
}

// TestECRRegistry pushes to the private registry and pulls from it, with passwords of ECR's.
func TestECRRegistry(t *testing.T) {
	images := registry.New(registry.Logger(slog.NewLogLogger(slog.DiscardHandler, slog.LevelInfo)))
	store := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, _, ok := r.BasicAuth(); ok {
			t.Error("the password is passed on")
		}
		images.ServeHTTP(w, r)
	}))
	t.Cleanup(store.Close)
	const policy = `{"Statement": [{"Effect": "Allow", "Action": "ecr:GetAuthorizationToken", "Resource": "*"},
		{"Effect": "Allow", "Action": ["ecr:BatchGetImage", "ecr:GetDownloadUrlForLayer"], "Resource": "arn:aws:ecr:us-west-2:123456789012:repository/kip/*"},
		{"Effect": "Allow", "Action": "ecr:BatchGetImage", "Resource": "arn:aws:ecr:us-west-2:123456789012:repository/no-layers"},
		{"Effect": "Allow", "Action": ["ecr:BatchCheckLayerAvailability", "ecr:InitiateLayerUpload", "ecr:UploadLayerPart", "ecr:CompleteLayerUpload"],
		 "Resource": "arn:aws:ecr:us-west-2:123456789012:repository/no-images"}]}`
	e, i := installed(t, policy)
	e.config.ECRImages = must(url.Parse(store.URL))(t)
	e.restart(t)
	password := func(c aws.Credentials) string {
		var token string
		e.cli(t, c).run(t, &token, "ecr", "get-authorization-token", "--query", "authorizationData[0].authorizationToken")
		raw, err := base64.StdEncoding.DecodeString(token)
		if err != nil {
			t.Fatal(err)
		}
		return strings.TrimPrefix(string(raw), "AWS:")
	}
	c := must(e.assume(t, i.token(t, good())))(t).Credentials
	role := password(aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken})
	administrator := password(aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret})
	for _, name := range []string{"kip/a", "kip/empty", "other", "no-layers", "no-images"} {
		e.administrator(t).run(t, nil, "ecr", "create-repository", "--repository-name", name)
	}
	login := func(password string) remote.Option {
		return remote.WithAuth(&authn.Basic{Username: "AWS", Password: password})
	}
	ref := func(image string) name.Reference {
		return must(name.ParseReference(strings.TrimPrefix(e.url, "http://")+"/"+image, name.Insecure))(t)
	}
	image := must(random.Image(1024, 2))(t)
	push := func(to, password string) error {
		return remote.Write(ref(to), image, login(password), remote.WithContext(t.Context()))
	}
	for _, name := range []string{"kip/a:1.0", "other:1.0", "no-layers:1.0"} {
		if err := push(name, administrator); err != nil {
			t.Fatal(err)
		}
	}
	// The first is refused by the answer to HEAD, which has no text.
	for to, refusal := range map[string]string{"kip/a:1.1": "403", "no-images:1.0": "ecr:PutImage"} {
		if err := push(to, role); err == nil || !strings.Contains(err.Error(), refusal) {
			t.Errorf("a push to %s without the right: %v; want %s", to, err, refusal)
		}
	}
	if err := push("unknown:1.0", administrator); err == nil || !strings.Contains(err.Error(), "NAME_UNKNOWN") {
		t.Errorf("a push to a repository that is not there: %v", err)
	}

	e.restart(t) // passwords are good for longer than a process, and what was pushed is remembered
	digest := must(image.Digest())(t)
	for _, reference := range []string{"kip/a:1.0", "kip/a@" + digest.String()} {
		pulled := must(remote.Image(ref(reference), login(role), remote.WithContext(t.Context())))(t)
		if err := validate.Image(pulled); err != nil || must(pulled.Digest())(t) != digest {
			t.Errorf("%s is not what was pushed: %v", reference, err)
		}
	}
	layer := "/blobs/" + must(must(image.Layers())(t)[0].Digest())(t).String()
	for name, tc := range map[string]struct {
		method, path, user, password string
		status                       int
		says                         string
	}{
		"a manifest":              {"GET", "/v2/kip/a/manifests/1.0", "AWS", role, 200, "schemaVersion"},
		"a layer":                 {"GET", "/v2/kip/a" + layer, "AWS", role, 200, ""},
		"a look at a manifest":    {"HEAD", "/v2/kip/a/manifests/1.0", "AWS", role, 200, ""},
		"is the password good":    {"GET", "/v2/", "AWS", role, 200, ""},
		"the administrator":       {"GET", "/v2/other/manifests/1.0", "AWS", administrator, 200, "schemaVersion"},
		"another repository":      {"GET", "/v2/other/manifests/1.0", "AWS", role, 403, "not authorized to perform: ecr:BatchGetImage on resource: arn:aws:ecr:us-west-2:123456789012:repository/other"},
		"a manifest but no layer": {"GET", "/v2/no-layers" + layer, "AWS", role, 403, "ecr:GetDownloadUrlForLayer"},
		"no such image":           {"GET", "/v2/kip/a/manifests/1.1", "AWS", role, 404, "MANIFEST_UNKNOWN"},
		"no such repository":      {"GET", "/v2/kip/b/manifests/1.0", "AWS", role, 404, "The repository with name 'kip/b' does not exist in the registry with id '123456789012'"},
		"none, and no right":      {"GET", "/v2/b/manifests/1.0", "AWS", role, 403, "DENIED"},
		"begins a layer":          {"POST", "/v2/no-images/blobs/uploads/?mount=sha256:1&from=other", "AWS", role, 202, ""},
		"no password":             {"GET", "/v2/kip/a/manifests/1.0", "", "", 401, "Not Authorized"},
		"another user":            {"GET", "/v2/kip/a/manifests/1.0", "kip", role, 401, "Not Authorized"},
		"a guess":                 {"GET", "/v2/kip/a/manifests/1.0", "AWS", "guess", 401, "Not Authorized"},
		"a push":                  {"PUT", "/v2/kip/a/manifests/1.0", "AWS", role, 403, "ecr:PutImage"},
		"removal":                 {"DELETE", "/v2/kip/a/manifests/1.0", "AWS", administrator, 405, "UNSUPPORTED"},
		"an index of all":         {"GET", "/v2/_catalog", "AWS", administrator, 405, "UNSUPPORTED"},
	} {
		t.Run(name, func(t *testing.T) {
			req := must(http.NewRequestWithContext(t.Context(), tc.method, e.url+tc.path, nil))(t)
			if tc.user != "" {
				req.SetBasicAuth(tc.user, tc.password)
			}
			resp := must(http.DefaultClient.Do(req))(t)
			defer resp.Body.Close()
			body := must(io.ReadAll(resp.Body))(t)
			if resp.StatusCode != tc.status || !strings.Contains(string(body), tc.says) {
				t.Errorf("got %s: %s", resp.Status, body)
			}
			if asked := resp.Header.Get("WWW-Authenticate"); (asked != "") != (tc.status == 401) {
				t.Errorf("it asks for %q", asked)
			}
			if location := resp.Header.Get("Location"); strings.Contains(location, "://") {
				t.Errorf("it leads to %s", location)
			}
		})
	}

	// A repository that is made again is empty.
	admin := e.administrator(t)
	admin.refused(t, "RepositoryNotEmptyException", "ecr", "delete-repository", "--repository-name", "kip/a")
	admin.run(t, nil, "ecr", "delete-repository", "--repository-name", "kip/a", "--force")
	admin.run(t, nil, "ecr", "create-repository", "--repository-name", "kip/a")
	if _, err := remote.Head(ref("kip/a:1.0"), login(role), remote.WithContext(t.Context())); err == nil {
		t.Error("the image outlived its repository")
	}
}

func TestEKS(t *testing.T) {
	const issuer = "https://oidc.eks.us-west-2.amazonaws.com/id/1"
	e := start(t, func(cfg *Config) { cfg.Clusters = map[string]string{"prod": issuer} })
	admin := e.administrator(t)
	var got struct {
		Cluster struct {
			ARN, Status        string
			ResourcesVPCConfig struct {
				VPCID     string
				SubnetIDs []string
			}
			Identity struct{ OIDC struct{ Issuer string } }
		}
	}
	admin.run(t, &got, "eks", "describe-cluster", "--name", "prod")
	c := got.Cluster
	if c.ARN != "arn:aws:eks:us-west-2:123456789012:cluster/prod" || c.Status != "ACTIVE" || c.Identity.OIDC.Issuer != issuer {
		t.Errorf("the cluster is %+v", c)
	}
	if diff := cmp.Diff(e.subnets(t), c.ResourcesVPCConfig.SubnetIDs); c.ResourcesVPCConfig.VPCID != e.server.cloud.World().VPC.ID || diff != "" {
		t.Errorf("its network is %+v; subnets (-want +got)\n%s", c.ResourcesVPCConfig, diff)
	}
	admin.refused(t, "ResourceNotFoundException", "eks", "describe-cluster", "--name", "other")
	e.tried(t, "eks")
}

func TestParameterStore(t *testing.T) {
	e := start(t, nil)
	addImage(t, e.config.Images, "eks-old", `{"name": "amazon-eks-node-al2023-x86_64-standard-1.36-v20260101", "ownerId": "602401143452", "creationDate": "2026-01-01T00:00:00Z"}`)
	addImage(t, e.config.Images, "eks-new", `{"name": "amazon-eks-node-al2023-x86_64-standard-1.36-v20260201", "ownerId": "602401143452", "creationDate": "2026-02-01T00:00:00Z"}`)
	addImage(t, e.config.Images, "eks-own", `{"name": "amazon-eks-node-al2023-x86_64-standard-1.36-v20260301", "creationDate": "2026-03-01T00:00:00Z"}`)
	admin := e.administrator(t)
	var image, value string
	admin.run(t, &image, "ec2", "describe-images", "--filters", "Name=name,Values=*v20260201", "--query", "Images[0].ImageId")
	const public = "/aws/service/eks/optimized-ami/1.36/amazon-linux-2023/x86_64/standard/recommended/image_id"
	admin.run(t, &value, "ssm", "get-parameter", "--name", public, "--query", "Parameter.Value")
	if value != image {
		t.Errorf("EKS recommends %s, want the newest of others: %s", value, image)
	}
	admin.refused(t, "ParameterNotFound", "ssm", "get-parameter", "--name", strings.Replace(public, "x86_64", "arm64", 1))

	put := func(name, kind, value string, more ...string) {
		t.Helper()
		admin.run(t, nil, append([]string{"ssm", "put-parameter", "--name", name, "--type", kind, "--value", value}, more...)...)
	}
	put("/kip/a", "String", "1", "--tags", "Key=k,Value=v")
	put("/kip/b", "SecureString", "secret")
	put("/kip/deep/c", "StringList", "1,2")
	admin.refused(t, "ParameterAlreadyExists", "ssm", "put-parameter", "--name", "/kip/a", "--type", "String", "--value", "2")
	admin.refused(t, "AccessDeniedException", "ssm", "put-parameter", "--name", "/aws/x", "--type", "String", "--value", "2")
	put("/kip/a", "String", "2", "--overwrite")
	e.restart(t)
	admin = e.administrator(t)
	var version int
	admin.run(t, &version, "ssm", "get-parameter", "--name", "/kip/a", "--query", "Parameter.Version")
	if version != 2 {
		t.Errorf("the version is %d", version)
	}
	for decrypt, want := range map[string]bool{"--with-decryption": true, "--no-with-decryption": false} {
		admin.run(t, &value, "ssm", "get-parameter", "--name", "/kip/b", decrypt, "--query", "Parameter.Value")
		if (value == "secret") != want {
			t.Errorf("%s: got %q", decrypt, value)
		}
	}
	var names []string
	admin.run(t, &names, "ssm", "get-parameters-by-path", "--path", "/kip", "--query", "Parameters[].Name")
	if diff := cmp.Diff([]string{"/kip/a", "/kip/b"}, names); diff != "" {
		t.Errorf("by path (-want +got):\n%s", diff)
	}
	admin.run(t, &names, "ssm", "get-parameters-by-path", "--path", "/kip/", "--recursive", "--page-size", "1", "--query", "Parameters[].Name")
	if diff := cmp.Diff([]string{"/kip/a", "/kip/b", "/kip/deep/c"}, names); diff != "" {
		t.Errorf("by path, in pages (-want +got):\n%s", diff)
	}
	admin.run(t, &names, "ssm", "get-parameters", "--names", "/kip/a", "/kip/x", public, "--query", "InvalidParameters")
	if diff := cmp.Diff([]string{"/kip/x"}, names); diff != "" {
		t.Errorf("missing (-want +got):\n%s", diff)
	}
	admin.run(t, nil, "ssm", "delete-parameter", "--name", "/kip/a")
	admin.refused(t, "ParameterNotFound", "ssm", "get-parameter", "--name", "/kip/a")
	e.tried(t, "ssm")
}

func TestMetering(t *testing.T) {
	e := start(t, nil)
	admin := e.administrator(t)
	now := time.Now().UTC()
	meter := func(at time.Time, quantity string) []string {
		return []string{"meteringmarketplace", "meter-usage", "--product-code", "kip", "--timestamp", at.Format(time.RFC3339),
			"--usage-dimension", "cell-hours", "--usage-quantity", quantity, "--query", "MeteringRecordId"}
	}
	admin.run(t, nil, "meteringmarketplace", "register-usage", "--product-code", "kip", "--public-key-version", "1")
	var first, again, other string
	at := now.Truncate(time.Hour)
	admin.run(t, &first, meter(at, "3")...)
	admin.run(t, &again, meter(at.Add(time.Second), "3")...)
	admin.run(t, &other, meter(at.Add(-time.Hour), "5")...)
	if first == "" || first != again || first == other {
		t.Errorf("the records are %q, the same hour %q, another hour %q", first, again, other)
	}
	admin.refused(t, "DuplicateRequestException", meter(at, "4")...)
	admin.refused(t, "TimestampOutOfBoundsException", meter(now.Add(-7*time.Hour), "1")...)
	admin.refused(t, "TimestampOutOfBoundsException", meter(now.Add(time.Hour), "1")...)
	e.admin(t, http.MethodPut, "marketplace", map[string]string{"kip": "CustomerNotEntitledException"})
	admin.refused(t, "CustomerNotEntitledException", "meteringmarketplace", "register-usage", "--product-code", "kip", "--public-key-version", "1")
	admin.refused(t, "CustomerNotEntitledException", meter(at.Add(-2*time.Hour), "1")...)
	e.admin(t, http.MethodPut, "marketplace", map[string]string{})
	e.restart(t)

	resp, err := http.Get(e.url + adminPrefix + "marketplace")
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	var got meteringapi.State
	if err := json.NewDecoder(resp.Body).Decode(&got); err != nil {
		t.Fatal(err)
	}
	want := meteringapi.State{Registrations: map[string]int{"kip": 1}, Records: []meteringapi.Record{
		{ID: other, Product: "kip", Dimension: "cell-hours", Hour: at.Add(-time.Hour), Quantity: 5},
		{ID: first, Product: "kip", Dimension: "cell-hours", Hour: at, Quantity: 3},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("after a restart (-want +got):\n%s", diff)
	}
	e.tried(t, "aws-marketplace")
}

// TestEFS follows the installation page's section on image caching.
func TestEFS(t *testing.T) {
	e := start(t, nil)
	admin := e.administrator(t)
	var group, fs, target, state, address string
	admin.run(t, &group, "ec2", "create-security-group", "--group-name", "kip-efs-mt", "--description", "Kip EFS Mount Target", "--query", "GroupId")
	admin.run(t, &fs, "efs", "create-file-system", "--creation-token", "kip-efs-1", "--tags", "Key=Name,Value=kip-efs", "--query", "FileSystemId")
	admin.refused(t, "FileSystemAlreadyExists", "efs", "create-file-system", "--creation-token", "kip-efs-1")
	eventually(t, "the file system is available", func() bool {
		admin.run(t, &state, "efs", "describe-file-systems", "--file-system-id", fs, "--query", "FileSystems[0].LifeCycleState")
		return state == "available"
	})
	subnets := e.subnets(t)
	before := e.server.cloud.FreeAddresses()[subnets[0]]
	create := func(subnet string, more ...string) []string {
		return append([]string{"efs", "create-mount-target", "--file-system-id", fs, "--security-groups", group, "--subnet-id", subnet}, more...)
	}
	admin.run(t, &target, create(subnets[0], "--query", "MountTargetId")...)
	admin.run(t, nil, create(subnets[1], "--ip-address", "10.98.16.200")...)
	admin.refused(t, "MountTargetConflict", create(subnets[0])...)
	admin.refused(t, "BadRequest", create(subnets[2], "--ip-address", "10.98.16.200")...)
	e.restart(t)
	admin = e.administrator(t)
	if after := e.server.cloud.FreeAddresses()[subnets[0]]; after != before-1 {
		t.Errorf("the subnet has %d free addresses after %d", after, before)
	}
	admin.run(t, &address, "efs", "describe-mount-targets", "--mount-target-id", target, "--query", "MountTargets[0].IpAddress")
	if !strings.HasPrefix(address, "10.98.0.") {
		t.Errorf("the address is %s", address)
	}
	var targets, groups []string
	admin.run(t, &targets, "efs", "describe-mount-targets", "--file-system-id", fs, "--query", "MountTargets[].MountTargetId")
	if len(targets) != 2 || !slices.Contains(targets, target) {
		t.Errorf("the mount targets are %v", targets)
	}
	admin.run(t, &groups, "efs", "describe-mount-target-security-groups", "--mount-target-id", target, "--query", "SecurityGroups")
	if len(groups) != 1 || groups[0] != group {
		t.Errorf("the groups are %v", groups)
	}
	admin.run(t, nil, "efs", "modify-mount-target-security-groups", "--mount-target-id", target, "--security-groups", group)
	admin.refused(t, "SecurityGroupNotFound", "efs", "modify-mount-target-security-groups", "--mount-target-id", target, "--security-groups", "sg-00000000000000000")
	admin.refused(t, "FileSystemInUse", "efs", "delete-file-system", "--file-system-id", fs)
	for _, id := range targets {
		admin.run(t, nil, "efs", "delete-mount-target", "--mount-target-id", id)
	}
	admin.run(t, nil, "efs", "delete-file-system", "--file-system-id", fs)
	admin.refused(t, "FileSystemNotFound", "efs", "describe-file-systems", "--file-system-id", fs)
	if after := e.server.cloud.FreeAddresses()[subnets[0]]; after != before {
		t.Errorf("the subnet has %d free addresses after %d", after, before)
	}
	e.tried(t, "elasticfilesystem")
}

// TestServicesDenied asks services of each protocol for what a role may not do.
func TestServicesDenied(t *testing.T) {
	e, i := installed(t, `{"Statement": {"Effect": "Allow", "Action": "ssm:GetParameter", "Resource": "arn:aws:ssm:*:*:parameter/kip/*"}}`)
	e.administrator(t).run(t, nil, "ssm", "put-parameter", "--name", "/kip/a", "--type", "String", "--value", "1")
	c := must(e.assume(t, i.token(t, good())))(t).Credentials
	kip := e.cli(t, aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken})
	kip.run(t, nil, "ssm", "get-parameter", "--name", "/kip/a")
	kip.refused(t, "AccessDeniedException", "ssm", "get-parameter", "--name", "/other")
	kip.refused(t, "AccessDeniedException", "ecr", "get-authorization-token")
	kip.refused(t, "AccessDeniedException", "meteringmarketplace", "register-usage", "--product-code", "kip", "--public-key-version", "1")
	kip.refused(t, "AccessDeniedException", "efs", "describe-file-systems")
	kip.refused(t, "AccessDeniedException", "eks", "describe-cluster", "--name", "x")
	kip = e.cli(t, aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: "wrong", SessionToken: *c.SessionToken})
	kip.refused(t, "InvalidSignatureException", "ecr", "get-authorization-token")
	kip.refused(t, "InvalidSignatureException", "efs", "describe-file-systems")
	kip = e.cli(t, aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: "wrong", SessionToken: "wrong"})
	kip.refused(t, "UnrecognizedClientException", "ecr", "get-authorization-token")
}
