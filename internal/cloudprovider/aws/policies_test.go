package aws

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/sha256"
	"crypto/x509"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"
	"github.com/google/go-cmp/cmp"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/cloudprovider"
	"github.com/elotl/kip/v2/internal/ec2local"
)

const (
	oidcProvider = "oidc.eks.us-west-2.amazonaws.com/id/AAAABBBBCCCCDDDDEEEEFFFF00001111"
	cellRole     = "kip-cell"
)

// installation is an account in which the policies of kustomize/iam were put
// into effect as docs/install-eks.md says, and a driver that takes Kip's role by
// a service account's token.
type installation struct {
	*endpoint
	t     *testing.T
	vpcID string
}

func install(t *testing.T) *installation {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	public, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	issuerKey, token := filepath.Join(dir, "issuer.pem"), filepath.Join(dir, "token")
	write := func(path string, data []byte) {
		if err := os.WriteFile(path, data, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(issuerKey, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: public}))
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	jws, err := jwt.Signed(signer).Claims(jwt.Claims{
		Issuer: "https://" + oidcProvider, Subject: "system:serviceaccount:kip:kip-provider", Audience: jwt.Audience{"sts.amazonaws.com"},
		Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	write(token, []byte(jws))

	i := &installation{t: t, endpoint: newEndpoint(t, func(c *ec2local.Config) {
		c.IssuerKeys = map[string]string{"https://" + oidcProvider: issuerKey}
	})}
	net, err := i.provider(t, "somebody else").nets.get(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	i.vpcID = net.vpcID
	i.iam("CreateOpenIDConnectProvider", "Url", "https://"+oidcProvider, "ClientIDList.member.1", "sts.amazonaws.com",
		"ThumbprintList.member.1", "9e99a48a9960b14926bb7f3b02e22da2b0ab7280")
	i.iam("CreateRole", "RoleName", "kip", "AssumeRolePolicyDocument", i.document("trust-policy.json"))
	for _, role := range []string{cellRole, "admins"} {
		i.iam("CreateRole", "RoleName", role, "AssumeRolePolicyDocument",
			`{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}`)
		i.iam("CreateInstanceProfile", "InstanceProfileName", role)
		i.iam("AddRoleToInstanceProfile", "InstanceProfileName", role, "RoleName", role)
	}
	// What the StatefulSet gives to Kip.
	t.Setenv("AWS_ROLE_ARN", "arn:aws:iam::"+ec2local.AccountID+":role/kip")
	t.Setenv("AWS_WEB_IDENTITY_TOKEN_FILE", token)
	t.Setenv("AWS_ENDPOINT_URL_STS", i.url)
	return i
}

// document is one of the policies with the page's variables filled in.
func (i *installation) document(name string) string {
	i.t.Helper()
	data, err := os.ReadFile(filepath.Join("../../../kustomize/iam", name))
	if err != nil {
		i.t.Fatal(err)
	}
	variables := map[string]string{
		"AWS_ACCOUNT_ID": ec2local.AccountID, "OIDC_PROVIDER": oidcProvider, "NAMESPACE": "kip", "KIP_SERVICE_ACCOUNT_NAME": "kip-provider",
		"USE_REGION": "us-west-2", "CLUSTER_NAME": "prod", "VPC_ID": i.vpcID, "KIP_CELL_ROLE_NAME": cellRole,
	}
	return os.Expand(string(data), func(name string) string { return variables[name] })
}

func (i *installation) policy(document string) {
	i.t.Helper()
	i.iam("PutRolePolicy", "RoleName", "kip", "PolicyName", "kip", "PolicyDocument", document)
}

// iam calls IAM as the account's administrator.
func (i *installation) iam(action string, parameters ...string) {
	i.t.Helper()
	form := url.Values{"Action": {action}, "Version": {"2010-05-08"}}
	for p := range slices.Chunk(parameters, 2) {
		form.Set(p[0], p[1])
	}
	body := form.Encode()
	req, err := http.NewRequestWithContext(i.t.Context(), http.MethodPost, i.url, strings.NewReader(body))
	if err != nil {
		i.t.Fatal(err)
	}
	req.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	sum := sha256.Sum256([]byte(body))
	if err := v4.NewSigner().SignHTTP(i.t.Context(), aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret}, req,
		hex.EncodeToString(sum[:]), "iam", "us-east-1", time.Now()); err != nil {
		i.t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		i.t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		answer, _ := io.ReadAll(resp.Body)
		i.t.Fatalf("%s: %s\n%s", action, resp.Status, answer)
	}
}

// kip is a driver with Kip's role.
func (i *installation) kip(change func(*Config)) *Provider {
	i.t.Helper()
	cfg := Config{
		Region: "us-west-2", EndpointURL: i.url, ControllerID: cloudprovider.ControllerID("prod", "kip", "kip-provider-0"), Nametag: "kip",
		VPCID: i.vpcID, Image: ImageSpec{Filters: []ImageFilter{{Name: "name", Values: []string{"cell-*"}}}},
		InstanceProfile: cellRole, Catalogue: catalogue(i.t), Clock: clock.RealClock{}, Logger: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	p, err := New(i.t.Context(), cfg)
	if err != nil {
		i.t.Fatal(err)
	}
	return p
}

// life is all that Kip ever asks EC2 for, from its start to its removal.
func life(ctx context.Context, p *Provider, token, network string) error {
	if err := p.Warm(ctx); err != nil {
		return err
	}
	i, err := p.Create(ctx, request(token))
	if err != nil {
		return err
	}
	for got := i; got.State != cloudprovider.StateRunning; {
		if got, err = p.Get(ctx, i.ID); err != nil {
			return err
		}
	}
	to := cloudprovider.RouteTarget{InstanceID: i.ID, NetworkInterface: i.NetworkInterface}
	if err := p.EnsureRoutes(ctx, to, []string{network}); err != nil {
		return err
	}
	if err := p.RemoveRoutes(ctx, to); err != nil {
		return err
	}
	if _, err := p.List(ctx); err != nil {
		return err
	}
	if err := p.Delete(ctx, i.ID); err != nil {
		return err
	}
	for {
		err := p.CleanUp(ctx)
		if cloudprovider.KindOf(err) != cloudprovider.Transient {
			return err
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// TestPoliciesSuffice: Kip can do all of its work with each of the policies that
// ship, by the trust policy that ships.
func TestPoliciesSuffice(t *testing.T) {
	for _, name := range []string{"kip-policy.json", "kip-policy-tight.json"} {
		t.Run(name, func(t *testing.T) {
			i := install(t)
			i.policy(i.document(name))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			if err := life(ctx, i.kip(nil), "token", "10.20.0.0/16"); err != nil {
				t.Error(err)
			}
		})
	}
}

// TestTightPolicyRefuses: with Kip's role nobody gets beyond Kip's own.
func TestTightPolicyRefuses(t *testing.T) {
	i := install(t)
	i.policy(i.document("kip-policy-tight.json"))
	foreign, err := i.provider(t, "somebody else").Create(t.Context(), request("foreign"))
	if err != nil {
		t.Fatal(err)
	}
	// Not by Delete, which looks whose it is.
	_, terminate := i.kip(nil).ec2.TerminateInstances(t.Context(), &ec2.TerminateInstancesInput{InstanceIds: []string{foreign.ID}})
	launch := func(change func(*Config)) error {
		_, err := i.kip(change).Create(t.Context(), request("token"))
		return err
	}
	for name, tc := range map[string]struct {
		reason, action string
		err            error
	}{
		"terminate": {"an instance of somebody else", "ec2:TerminateInstances", wrap("ec2:TerminateInstances", terminate)},
		"pass role": {"a pod would have the rights of any role", "iam:PassRole", launch(func(c *Config) { c.InstanceProfile = "admins" })},
		"tags":      {"instances that no Kip would end", "ec2:CreateSecurityGroup", launch(func(c *Config) { c.ControllerID = "prod/other/kip-provider-0" })},
	} {
		t.Run(name, func(t *testing.T) {
			if got := denied(tc.err); got != tc.action {
				t.Errorf("%s: %v; want %s denied", tc.reason, tc.err, tc.action)
			}
		})
	}
}

// denied is the action that the error says is denied.
func denied(err error) string {
	if cause, ok := errors.AsType[*cloudprovider.Error](err); ok && cause.Kind == cloudprovider.Denied {
		return cause.Action
	}
	return ""
}

// TestWithoutOneAction takes the actions of the wide policy away, one at a time:
// what Kip calls is missed by name, and nothing else is.
func TestWithoutOneAction(t *testing.T) {
	i := install(t)
	all := i.document("kip-policy.json")
	var needed []string
	for n, m := range regexp.MustCompile(`"([a-z0-9-]+:[A-Za-z]+)"`).FindAllStringSubmatch(all, -1) {
		action := m[1]
		// None of Kip's, but an action it must be, for the document to be one.
		i.policy(strings.Replace(all, `"`+action+`"`, `"ec2:GetConsoleOutput"`, 1))
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		err := life(ctx, i.kip(nil), "without "+action, fmt.Sprintf("10.%d.0.0/16", 100+n))
		cancel()
		if err != nil {
			needed = append(needed, action)
			if got := denied(err); got != action {
				t.Errorf("without %s: %v", action, err)
			}
		}
		i.policy(all)
		if err := i.kip(nil).endAll(t); err != nil {
			t.Fatal(err)
		}
	}
	slices.Sort(needed)
	want := []string{
		"ec2:AuthorizeSecurityGroupIngress", "ec2:CreateRoute", "ec2:CreateSecurityGroup", "ec2:CreateTags", "ec2:DeleteRoute",
		"ec2:DeleteSecurityGroup", "ec2:DescribeImages", "ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "ec2:DescribeRouteTables",
		"ec2:DescribeSecurityGroups", "ec2:DescribeSubnets", "ec2:DescribeVolumes", "ec2:DescribeVpcs", "ec2:ModifyInstanceAttribute", "ec2:RunInstances", "ec2:TerminateInstances", "iam:PassRole",
	}
	if diff := cmp.Diff(want, needed); diff != "" {
		t.Errorf("needed in one life of a cell: %s", diff)
	}
}

// endAll ends what a life that broke off left.
func (p *Provider) endAll(t *testing.T) error {
	all, err := p.List(t.Context())
	for _, i := range all {
		if err == nil && i.State != cloudprovider.StateTerminated {
			err = p.Delete(t.Context(), i.ID)
		}
	}
	for deadline := time.Now().Add(time.Minute); err == nil; {
		if err = p.CleanUp(t.Context()); err == nil {
			return nil
		}
		if cloudprovider.KindOf(err) == cloudprovider.Transient && time.Now().Before(deadline) {
			err = nil
			time.Sleep(5 * time.Millisecond)
		}
	}
	return err
}

// TestOptionalPolicy: with it Kip may ask how instances are, read the consoles of
// cells, and stop and start them, and without it is told no by the name of the action.
func TestOptionalPolicy(t *testing.T) {
	i := install(t)
	i.policy(i.document("kip-policy-tight.json"))
	if _, err := i.kip(nil).Health(t.Context()); denied(err) != "ec2:DescribeInstanceStatus" {
		t.Errorf("without it: %v", err)
	}
	i.iam("PutRolePolicy", "RoleName", "kip", "PolicyName", "kip-optional", "PolicyDocument", i.document("kip-policy-optional.json"))
	if _, err := i.kip(nil).Health(t.Context()); err != nil {
		t.Errorf("with it: %v", err)
	}
	kip := i.kip(nil)
	cell, err := kip.Create(t.Context(), request("token"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := kip.Console(t.Context(), cell.ID); err != nil {
		t.Errorf("the console of a cell: %v", err)
	}
	kip.await(t, cell.ID, cloudprovider.StateRunning)
	if err := kip.Stop(t.Context(), cell.ID); err != nil {
		t.Errorf("stopping a cell: %v", err)
	}
	kip.await(t, cell.ID, cloudprovider.StateStopped)
	if err := kip.Start(t.Context(), cell.ID); err != nil {
		t.Errorf("starting a cell: %v", err)
	}
	foreign, err := i.provider(t, "somebody else").Create(t.Context(), request("foreign"))
	if err != nil {
		t.Fatal(err)
	}
	i.provider(t, "somebody else").await(t, foreign.ID, cloudprovider.StateRunning)
	// Not by Stop, which looks whose it is.
	_, stop := kip.ec2.StopInstances(t.Context(), &ec2.StopInstancesInput{InstanceIds: []string{foreign.ID}})
	if denied(wrap("ec2:StopInstances", stop)) == "" {
		t.Errorf("stopping somebody else's instance: %v", stop)
	}
}
