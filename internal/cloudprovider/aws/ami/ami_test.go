package ami

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/iam"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/ec2local"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/machine/machinetest"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
)

// account is an ec2local with an interceptor before it.
type account struct {
	*ec2.Client
	server *ec2local.Server
	images string

	mu sync.Mutex
	// meddle may answer a request by itself, before (then it returns true) or after it had its effect.
	meddle func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool
	puts   int // blocks that were written
}

// newAccount makes one without machines, unless change gives it some.
func newAccount(t *testing.T, change ...func(*ec2local.Config)) *account {
	t.Helper()
	a := &account{images: t.TempDir()}
	cfg := ec2local.Config{
		Dir: filepath.Join(t.TempDir(), "state"), Images: a.images, Region: "us-west-2", Zones: []string{"us-west-2a"},
		VPC: netip.MustParsePrefix("10.98.0.0/16"), Credentials: signature.Credentials{"key": "secret"},
		Types: func(string) (cloud.Type, bool) { return cloud.Type{}, false }, Hypervisor: machinetest.New(),
		Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}
	for _, f := range change {
		f(&cfg)
	}
	var err error
	if a.server, err = ec2local.New(cfg); err != nil {
		t.Fatal(err)
	}
	endpoint := httptest.NewServer(a)
	t.Cleanup(endpoint.Close)
	for name, value := range map[string]string{
		"AWS_ENDPOINT_URL": endpoint.URL, "AWS_REGION": "us-west-2", "AWS_ACCESS_KEY_ID": "key", "AWS_SECRET_ACCESS_KEY": "secret",
		"AWS_CONFIG_FILE": os.DevNull, "AWS_SHARED_CREDENTIALS_FILE": os.DevNull, "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	sdk, err := awsconfig.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	a.Client = ec2.NewFromConfig(sdk)
	return a
}

// ServeHTTP implements [http.Handler].
func (a *account) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	a.mu.Lock()
	meddle := a.meddle
	if r.Method == http.MethodPut {
		a.puts++
	}
	a.mu.Unlock()
	if meddle != nil && meddle(w, r, a.server.ServeHTTP) {
		return
	}
	a.server.ServeHTTP(w, r)
}

// disk makes a file with something in its first, third and last block, the last one not whole.
func disk(t *testing.T) string {
	t.Helper()
	content := make([]byte, 5*blockSize+1000)
	for _, at := range []int{0, 2*blockSize + 7, 5 * blockSize} {
		_, _ = rand.Read(content[at : at+500])
	}
	path := filepath.Join(t.TempDir(), "disk")
	if err := os.WriteFile(path, content, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func config(t *testing.T, disk string) Config {
	return Config{
		Disk: disk, Name: "kip-cell", Version: "v2.1", Tags: map[string]string{"team": "platform"},
		Progress: func(what string) { t.Log(what) },
	}
}

func TestRegister(t *testing.T) {
	a := newAccount(t)
	path := disk(t)
	id, err := Register(t.Context(), config(t, path))
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.DescribeImages(t.Context(), &ec2.DescribeImagesInput{Owners: []string{"self"}})
	if err != nil || len(out.Images) != 1 {
		t.Fatalf("the images are %+v, %v", out, err)
	}
	image := out.Images[0]
	if !strings.HasPrefix(*image.Name, "kip-cell-v2.1-") || *image.ImageId != id {
		t.Errorf("the image is %s, %s", *image.ImageId, *image.Name)
	}
	root := image.BlockDeviceMappings[0]
	type facts struct {
		Architecture types.ArchitectureValues
		Boot         types.BootModeValues
		IMDS         types.ImdsSupportValues
		ENA          bool
		Root, Device string
		Volume       types.VolumeType
		GiB          int32
		Team         string
	}
	got := facts{
		image.Architecture, image.BootMode, image.ImdsSupport, *image.EnaSupport, *image.RootDeviceName, *root.DeviceName, root.Ebs.VolumeType,
		*root.Ebs.VolumeSize, tag(image.Tags, "team"),
	}
	want := facts{"x86_64", "uefi", "v2.0", true, "/dev/xvda", "/dev/xvda", "gp3", 1, "platform"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("the image (-want +got):\n%s", diff)
	}
	a.check(t, path)
	if a.puts != 3 {
		t.Errorf("%d blocks were sent, of 3 that hold something", a.puts)
	}
	again, err := Register(t.Context(), config(t, path))
	if err != nil || again != id || a.puts != 3 {
		t.Errorf("a second run gave %s after %d blocks, %v; want %s", again, a.puts, err, id)
	}
}

func tag(tags []types.Tag, key string) string {
	for _, t := range tags {
		if *t.Key == key {
			return *t.Value
		}
	}
	return ""
}

// check compares what the only image has with a disk.
func (a *account) check(t *testing.T, path string) {
	t.Helper()
	disks, err := filepath.Glob(filepath.Join(a.images, "*", "disk"))
	if err != nil || len(disks) != 1 {
		t.Fatalf("the images' disks are %v, %v", disks, err)
	}
	want, wantErr := os.ReadFile(path)
	f, err := os.Open(disks[0])
	if err != nil || wantErr != nil {
		t.Fatal(err, wantErr)
	}
	defer f.Close()
	got := make([]byte, len(want)+4*blockSize)
	if _, err := f.ReadAt(got, 0); err != nil {
		t.Fatal(err)
	}
	if !bytes.Equal(got[:len(want)], want) || !bytes.Equal(got[len(want):], make([]byte, 4*blockSize)) {
		t.Error("the image's disk is another one")
	}
}

// refuse answers as the EBS direct APIs do.
func refuse(w http.ResponseWriter, status int, code string) {
	w.Header().Set("X-Amzn-ErrorType", code)
	w.WriteHeader(status)
}

// hangUp ends a connection without an answer.
func hangUp() { panic(http.ErrAbortHandler) }

func TestTroubleIsOvercome(t *testing.T) {
	first := func(n int, matches func(*http.Request) bool, then func(http.ResponseWriter, *http.Request, http.HandlerFunc)) func(http.ResponseWriter, *http.Request, http.HandlerFunc) bool {
		var mu sync.Mutex
		return func(w http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
			mu.Lock()
			hit := n > 0 && matches(r)
			if hit {
				n--
			}
			mu.Unlock()
			if hit {
				then(w, r, serve)
			}
			return hit
		}
	}
	put := func(r *http.Request) bool { return r.Method == http.MethodPut }
	path := func(p string) func(*http.Request) bool {
		return func(r *http.Request) bool { return strings.HasPrefix(r.URL.Path, p) && r.Method == http.MethodPost }
	}
	answer := func(status int, code string) func(http.ResponseWriter, *http.Request, http.HandlerFunc) {
		return func(w http.ResponseWriter, _ *http.Request, _ http.HandlerFunc) { refuse(w, status, code) }
	}
	loseAfter := func(_ http.ResponseWriter, r *http.Request, serve http.HandlerFunc) {
		serve(httptest.NewRecorder(), r)
		hangUp()
	}
	cases := map[string]struct {
		reason string
		meddle func(http.ResponseWriter, *http.Request, http.HandlerFunc) bool
	}{
		"ServerError":  {"What failed once may succeed.", first(2, put, answer(500, "InternalServerException"))},
		"Throttled":    {"Blocks go out faster than they are taken.", first(2, put, answer(400, "RequestThrottledException"))},
		"NotKnownYet":  {"A new snapshot may be unknown for a while.", first(2, put, answer(404, "ResourceNotFoundException"))},
		"BlockLost":    {"A block that was written may be written again.", first(1, put, loseAfter)},
		"StartLost":    {"The same token is the same snapshot.", first(1, func(r *http.Request) bool { return r.URL.Path == "/snapshots" }, loseAfter)},
		"CompleteLost": {"A snapshot that is complete is as good as one that says so.", first(1, path("/snapshots/completion/"), loseAfter)},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			a := newAccount(t)
			a.meddle = tc.meddle
			path := disk(t)
			if _, err := Register(t.Context(), config(t, path)); err != nil {
				t.Fatalf("%s got %v", tc.reason, err)
			}
			a.meddle = nil
			a.check(t, path)
			if n := a.snapshots(t); n != 1 {
				t.Errorf("%s there are %d snapshots", tc.reason, n)
			}
		})
	}
}

func (a *account) snapshots(t *testing.T) int {
	t.Helper()
	out, err := a.DescribeSnapshots(t.Context(), &ec2.DescribeSnapshotsInput{})
	if err != nil {
		t.Fatal(err)
	}
	return len(out.Snapshots)
}

// TestInterrupted ends a run at each of its steps. The next one goes on: no second snapshot, no second image.
func TestInterrupted(t *testing.T) {
	for _, step := range []string{"StartSnapshot", "PutSnapshotBlock", "CompleteSnapshot", "RegisterImage"} {
		t.Run(step, func(t *testing.T) {
			a := newAccount(t)
			path := disk(t)
			ctx, interrupt := context.WithCancel(t.Context())
			defer interrupt()
			a.meddle = func(_ http.ResponseWriter, r *http.Request, serve http.HandlerFunc) bool {
				if operation(r) != step {
					return false
				}
				serve(httptest.NewRecorder(), r)
				interrupt()
				hangUp()
				return true
			}
			if _, err := Register(ctx, config(t, path)); !errors.Is(err, context.Canceled) {
				t.Fatalf("an interrupted run gave %v", err)
			}
			a.mu.Lock()
			a.meddle = nil
			a.mu.Unlock()
			if _, err := Register(t.Context(), config(t, path)); err != nil {
				t.Fatal(err)
			}
			a.check(t, path)
			if n := a.snapshots(t); n != 1 {
				t.Errorf("there are %d snapshots", n)
			}
		})
	}
}

// operation is what a request is for, as far as the tests ask.
func operation(r *http.Request) string {
	switch {
	case r.URL.Path == "/snapshots":
		return "StartSnapshot"
	case r.Method == http.MethodPut:
		return "PutSnapshotBlock"
	case strings.HasPrefix(r.URL.Path, "/snapshots/completion/"):
		return "CompleteSnapshot"
	}
	body, _ := io.ReadAll(r.Body)
	r.Body = io.NopCloser(bytes.NewReader(body))
	if bytes.Contains(body, []byte("Action=RegisterImage&")) {
		return "RegisterImage"
	}
	return ""
}

// TestRights takes a role that may do what docs/install-eks.md names, and nothing else.
func TestRights(t *testing.T) {
	newAccount(t)
	policy, err := os.ReadFile("../../../../hack/ami/policy.json")
	if err != nil {
		t.Fatal(err)
	}
	sdk, err := awsconfig.LoadDefaultConfig(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	users := iam.NewFromConfig(sdk)
	trust := `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"AWS": "` + ec2local.AccountID + `"}, "Action": "sts:AssumeRole"}]}`
	role, err := users.CreateRole(t.Context(), &iam.CreateRoleInput{RoleName: aws.String("images"), AssumeRolePolicyDocument: &trust})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := users.PutRolePolicy(t.Context(), &iam.PutRolePolicyInput{
		RoleName: aws.String("images"), PolicyName: aws.String("images"), PolicyDocument: aws.String(string(policy)),
	}); err != nil {
		t.Fatal(err)
	}
	session, err := sts.NewFromConfig(sdk).AssumeRole(t.Context(), &sts.AssumeRoleInput{RoleArn: role.Role.Arn, RoleSessionName: aws.String("images")})
	if err != nil {
		t.Fatal(err)
	}
	t.Setenv("AWS_ACCESS_KEY_ID", *session.Credentials.AccessKeyId)
	t.Setenv("AWS_SECRET_ACCESS_KEY", *session.Credentials.SecretAccessKey)
	t.Setenv("AWS_SESSION_TOKEN", *session.Credentials.SessionToken)
	if _, err := Register(t.Context(), config(t, disk(t))); err != nil {
		t.Fatal(err)
	}
}

// TestDenied: what the account may not do is told with the action's name.
func TestDenied(t *testing.T) {
	a := newAccount(t)
	a.meddle = func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) bool {
		if r.Method == http.MethodPut {
			refuse(w, http.StatusForbidden, "AccessDeniedException")
			return true
		}
		return false
	}
	_, err := Register(t.Context(), config(t, disk(t)))
	if code(err) != "AccessDeniedException" || !strings.Contains(err.Error(), "PutSnapshotBlock") {
		t.Errorf("got %v", err)
	}
}

// TestEncrypted: a snapshot that is not encrypted is of no use to who wants one that is.
func TestEncrypted(t *testing.T) {
	a := newAccount(t)
	c := config(t, disk(t))
	id, err := Register(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := a.DeregisterImage(t.Context(), &ec2.DeregisterImageInput{ImageId: aws.String(id)}); err != nil {
		t.Fatal(err)
	}
	c.Encrypted = true
	id, err = Register(t.Context(), c)
	if err != nil {
		t.Fatal(err)
	}
	out, err := a.DescribeImages(t.Context(), &ec2.DescribeImagesInput{ImageIds: []string{id}})
	if err != nil || !*out.Images[0].BlockDeviceMappings[0].Ebs.Encrypted {
		t.Errorf("the image is not encrypted: %+v, %v", out, err)
	}
	if n := a.snapshots(t); n != 2 {
		t.Errorf("there are %d snapshots, want both", n)
	}
}
