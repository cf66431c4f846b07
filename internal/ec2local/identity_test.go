package ec2local

import (
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/elotl/kip/v2/internal/ec2local/service"
)

const issuer = "https://kubernetes.default.svc.cluster.local"

// issuing is a token issuer whose keys ec2local knows.
type issuing struct {
	key  *ecdsa.PrivateKey
	file string
}

func newIssuer(t *testing.T) *issuing {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	raw, err := x509.MarshalPKIXPublicKey(&key.PublicKey)
	if err != nil {
		t.Fatal(err)
	}
	i := &issuing{key: key, file: filepath.Join(t.TempDir(), "issuer.pub")}
	if err := os.WriteFile(i.file, pem.EncodeToMemory(&pem.Block{Type: "PUBLIC KEY", Bytes: raw}), 0o600); err != nil {
		t.Fatal(err)
	}
	return i
}

// token is a service account's token.
func (i *issuing) token(t *testing.T, claims jwt.Claims) string {
	t.Helper()
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.ES256, Key: i.key}, nil)
	if err != nil {
		t.Fatal(err)
	}
	token, err := jwt.Signed(signer).Claims(claims).Serialize()
	if err != nil {
		t.Fatal(err)
	}
	return token
}

func good() jwt.Claims {
	return jwt.Claims{
		Issuer: issuer, Subject: "system:serviceaccount:kip:kip-provider", Audience: jwt.Audience{"sts.amazonaws.com"},
		Expiry: jwt.NewNumericDate(time.Now().Add(time.Hour)),
	}
}

const trustPolicy = `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow",
	"Principal": {"Federated": "arn:aws:iam::123456789012:oidc-provider/kubernetes.default.svc.cluster.local"},
	"Action": "sts:AssumeRoleWithWebIdentity",
	"Condition": {"StringEquals": {"kubernetes.default.svc.cluster.local:sub": "system:serviceaccount:kip:kip-provider",
		"kubernetes.default.svc.cluster.local:aud": "sts.amazonaws.com"}}}]}`

// seedPolicy are the 29 actions of Kip's installation page.
const seedPolicy = `{"Version": "2012-10-17", "Statement": [{"Sid": "", "Effect": "Allow", "Action": [
	"aws-marketplace:RegisterUsage", "aws-marketplace:MeterUsage", "ec2:ModifyVolume", "ec2:AuthorizeSecurityGroupIngress",
	"ec2:DescribeInstances", "ec2:TerminateInstances", "ec2:CreateTags", "ec2:DeleteRoute", "ecr:GetAuthorizationToken",
	"ecr:GetDownloadUrlForLayer", "ecr:BatchGetImage", "ec2:DescribeDhcpOptions", "ec2:RunInstances",
	"ec2:DescribeSecurityGroups", "ec2:RevokeSecurityGroupIngress", "ec2:DescribeImages", "ec2:DescribeNetworkInterfaces",
	"ec2:DescribeAvailabilityZones", "ec2:ModifyInstanceCreditSpecification", "ec2:CreateRoute", "ec2:DescribeVpcs",
	"ec2:CreateSecurityGroup", "ec2:DescribeVolumes", "ec2:DeleteSecurityGroup", "ec2:ModifyInstanceAttribute",
	"ec2:DescribeSubnets", "ec2:DescribeRouteTables", "ec2:AssociateIamInstanceProfile", "iam:PassRole"], "Resource": "*"}]}`

// installed is an account in which an operator made what Kip's role needs, with the AWS CLI.
func installed(t *testing.T, policy string) (*endpoint, *issuing) {
	t.Helper()
	i := newIssuer(t)
	e := start(t, func(c *Config) { c.IssuerKeys = map[string]string{issuer: i.file} })
	admin := e.cli(t, aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret})
	files := t.TempDir()
	for name, content := range map[string]string{"trust.json": trustPolicy, "policy.json": policy} {
		if err := os.WriteFile(filepath.Join(files, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	admin.run(t, nil, "iam", "create-open-id-connect-provider", "--url", issuer, "--client-id-list", "sts.amazonaws.com",
		"--thumbprint-list", "0123456789012345678901234567890123456789")
	admin.run(t, nil, "iam", "create-role", "--role-name", "kip", "--assume-role-policy-document", "file://"+files+"/trust.json",
		"--tags", "Key=a,Value=b")
	admin.run(t, nil, "iam", "put-role-policy", "--role-name", "kip", "--policy-name", "kip", "--policy-document", "file://"+files+"/policy.json")
	return e, i
}

// assume exchanges a token for credentials, as the SDK of a pod does.
func (e *endpoint) assume(t *testing.T, token string) (*sts.AssumeRoleWithWebIdentityOutput, error) {
	t.Helper()
	client := sts.New(sts.Options{Region: testRegion, BaseEndpoint: aws.String(e.url), HTTPClient: e.client, Retryer: aws.NopRetryer{}})
	return client.AssumeRoleWithWebIdentity(t.Context(), &sts.AssumeRoleWithWebIdentityInput{
		RoleArn: aws.String("arn:aws:iam::123456789012:role/kip"), RoleSessionName: aws.String("kip"), WebIdentityToken: aws.String(token),
	})
}

// session is EC2 for a session's credentials.
func (e *endpoint) session(out *sts.AssumeRoleWithWebIdentityOutput) *ec2.Client {
	c := out.Credentials
	return ec2.New(ec2.Options{
		Region: testRegion, BaseEndpoint: aws.String(e.url), HTTPClient: e.client, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: *c.AccessKeyId, SecretAccessKey: *c.SecretAccessKey, SessionToken: *c.SessionToken}, nil
		}),
	})
}

func TestWebIdentity(t *testing.T) {
	e, i := installed(t, seedPolicy)
	other := newIssuer(t)
	with := func(change func(*jwt.Claims)) string {
		claims := good()
		change(&claims)
		return i.token(t, claims)
	}
	cases := map[string]struct{ reason, token, want string }{
		"good":     {"the service account that the role trusts", i.token(t, good()), ""},
		"subject":  {"another service account", with(func(c *jwt.Claims) { c.Subject = "system:serviceaccount:kip:default" }), "AccessDenied"},
		"audience": {"for the API server", with(func(c *jwt.Claims) { c.Audience = jwt.Audience{issuer} }), "InvalidIdentityToken"},
		"issuer":   {"of another cluster", with(func(c *jwt.Claims) { c.Issuer = "https://elsewhere" }), "InvalidIdentityToken"},
		"key":      {"signed by somebody else", other.token(t, good()), "InvalidIdentityToken"},
		"expired":  {"old", with(func(c *jwt.Claims) { c.Expiry = jwt.NewNumericDate(time.Now().Add(-time.Second)) }), "ExpiredTokenException"},
		"early":    {"not yet", with(func(c *jwt.Claims) { c.NotBefore = jwt.NewNumericDate(time.Now().Add(time.Hour)) }), "InvalidIdentityToken"},
		"for ever": {"without an end", with(func(c *jwt.Claims) { c.Expiry = nil }), "ExpiredTokenException"},
		"garbage":  {"no token", "garbage", "InvalidIdentityToken"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			if _, err := e.assume(t, tc.token); code(err) != tc.want {
				t.Errorf("%s: got %v, want %q", tc.reason, err, tc.want)
			}
		})
	}
}

// TestSeedPolicy is a session of calls as Kip makes them, under the policy of the installation page.
func TestSeedPolicy(t *testing.T) {
	e, i := installed(t, seedPolicy)
	ctx := t.Context()
	out, err := e.assume(t, i.token(t, good()))
	if err != nil {
		t.Fatal(err)
	}
	kip := e.session(out)
	e.admin(t, http.MethodDelete, "calls", nil)

	vpc := must(kip.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}))(t).Vpcs[0].VpcId
	must(kip.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{}))(t)
	must(kip.DescribeImages(ctx, &ec2.DescribeImagesInput{}))(t)
	must(kip.DescribeSecurityGroups(ctx, &ec2.DescribeSecurityGroupsInput{}))(t)
	group := must(kip.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{
		GroupName: aws.String("kip"), Description: aws.String("cells"), VpcId: vpc, TagSpecifications: []types.TagSpecification{{
			ResourceType: types.ResourceTypeSecurityGroup, Tags: []types.Tag{{Key: aws.String("k"), Value: aws.String("v")}}}},
	}))(t).GroupId
	id := must(kip.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId // with an instance profile and tags
	must(kip.DescribeInstances(ctx, &ec2.DescribeInstancesInput{}))(t)
	must(kip.ModifyInstanceAttribute(ctx, &ec2.ModifyInstanceAttributeInput{
		InstanceId: id, SourceDestCheck: &types.AttributeBooleanValue{Value: aws.Bool(false)}}))(t)
	must(kip.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*id}}))(t)
	must(kip.DeleteSecurityGroup(ctx, &ec2.DeleteSecurityGroupInput{GroupId: group}))(t)
	if denied := e.server.gate.Calls().Denials(); len(denied) > 0 {
		t.Errorf("denied: %v", denied)
	}
	asked := map[string]bool{}
	for _, c := range e.server.gate.Calls().Counts() {
		asked[c.Action] = true
	}
	for _, action := range []string{"ec2:RunInstances", "ec2:CreateTags", "iam:PassRole", "ec2:TerminateInstances"} {
		if !asked[action] {
			t.Errorf("nobody asked whether %s is allowed", action)
		}
	}

	_, stop := kip.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{*id}})
	_, tags := kip.DescribeTags(ctx, &ec2.DescribeTagsInput{})
	_, untag := kip.DeleteTags(ctx, &ec2.DeleteTagsInput{Resources: []string{*id}})
	_, status := kip.DescribeInstanceStatus(ctx, &ec2.DescribeInstanceStatusInput{})
	_, dry := kip.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{*id}, DryRun: aws.Bool(true)})
	for what, err := range map[string]error{"stop": stop, "describe tags": tags, "delete tags": untag, "status": status, "dry run": dry} {
		if code(err) != "UnauthorizedOperation" {
			t.Errorf("%s: %v", what, err)
		}
	}
	want := "You are not authorized to perform this operation. User: arn:aws:sts::123456789012:assumed-role/kip/kip is not authorized " +
		"to perform: ec2:StopInstances on resource: arn:aws:ec2:us-west-2:123456789012:instance/" + *id +
		" because no identity-based policy allows the ec2:StopInstances action"
	if !strings.Contains(stop.Error(), want) {
		t.Errorf("got %v, want %s", stop, want)
	}

	// Sessions outlive the process, and hold as long as the role that they are of.
	e.restart(t)
	kip = e.session(out)
	must(kip.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}))(t)
	if err := e.server.iam.DeletePolicy("kip", "kip"); err != nil {
		t.Fatal(err)
	}
	if _, err := kip.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}); code(err) != "UnauthorizedOperation" {
		t.Errorf("without a policy: %v", err)
	}
	if err := e.server.iam.DeleteRole("kip"); err != nil {
		t.Fatal(err)
	}
	if _, err := kip.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}); code(err) != "AuthFailure" {
		t.Errorf("without the role: %v", err)
	}
}

// TestTightPolicy launches and terminates under a policy that names tags, types, a region and a role.
func TestTightPolicy(t *testing.T) {
	const policy = `{"Version": "2012-10-17", "Statement": [
		{"Effect": "Allow", "Action": "ec2:Describe*", "Resource": "*", "Condition": {"StringEquals": {"ec2:Region": "us-west-2"}}},
		{"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": ["arn:aws:ec2:*:*:instance/*", "arn:aws:ec2:*:*:volume/*", "arn:aws:ec2:*:*:network-interface/*"],
			"Condition": {"StringEquals": {"aws:RequestTag/Name": "pod"}, "StringLikeIfExists": {"ec2:InstanceType": "t3.*"}}},
		{"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": ["arn:aws:ec2:*:*:subnet/*", "arn:aws:ec2:*:*:security-group/*", "arn:aws:ec2:*::image/*", "arn:aws:ec2:*:*:key-pair/*"]},
		{"Effect": "Allow", "Action": "ec2:CreateTags", "Resource": "*", "Condition": {"StringEquals": {"ec2:CreateAction": "RunInstances"}}},
		{"Effect": "Allow", "Action": "ec2:TerminateInstances", "Resource": "*", "Condition": {"StringEquals": {"aws:ResourceTag/Name": "pod"}}},
		{"Effect": "Allow", "Action": "iam:PassRole", "Resource": "arn:aws:iam::123456789012:role/cells", "Condition": {"StringEquals": {"iam:PassedToService": "ec2.amazonaws.com"}}}]}`
	e, i := installed(t, policy)
	e.addProfile(t, "admins")
	ctx := t.Context()
	kip := e.session(must(e.assume(t, i.token(t, good())))(t))
	launch := func(token string, change func(*ec2.RunInstancesInput)) (*ec2.RunInstancesOutput, error) {
		in := e.cell(t)
		in.ClientToken = aws.String(token)
		pod := []types.Tag{{Key: aws.String("Name"), Value: aws.String("pod")}}
		in.TagSpecifications = nil
		for _, kind := range []types.ResourceType{types.ResourceTypeInstance, types.ResourceTypeVolume, types.ResourceTypeNetworkInterface} {
			in.TagSpecifications = append(in.TagSpecifications, types.TagSpecification{ResourceType: kind, Tags: pod})
		}
		if change != nil {
			change(in)
		}
		return kip.RunInstances(ctx, in)
	}
	own := must(launch("own", nil))(t).Instances[0].InstanceId
	foreign := must(e.RunInstances(ctx, func() *ec2.RunInstancesInput {
		in := e.cell(t)
		in.ClientToken, in.TagSpecifications = aws.String("foreign"), nil
		return in
	}()))(t).Instances[0].InstanceId
	_, untagged := launch("untagged", func(in *ec2.RunInstancesInput) { in.TagSpecifications = in.TagSpecifications[:1] })
	_, big := launch("big", func(in *ec2.RunInstancesInput) { in.InstanceType = types.InstanceTypeM5Large })
	_, role := launch("role", func(in *ec2.RunInstancesInput) { in.IamInstanceProfile.Name = aws.String("admins") })
	_, tag := kip.CreateTags(ctx, &ec2.CreateTagsInput{Resources: []string{*foreign}, Tags: []types.Tag{{Key: aws.String("Name"), Value: aws.String("pod")}}})
	_, terminate := kip.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*own, *foreign}})
	_, group := kip.CreateSecurityGroup(ctx, &ec2.CreateSecurityGroupInput{GroupName: aws.String("g"), Description: aws.String("d")})
	for what, err := range map[string]error{
		"a volume without its tag": untagged, "another type": big, "another role": role, "tags of what is there": tag,
		"an instance of others": terminate, "a security group": group,
	} {
		if code(err) != "UnauthorizedOperation" {
			t.Errorf("%s: %v", what, err)
		}
	}
	must(kip.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*own}}))(t)
}

// TestIAMCLI does with the AWS CLI what an operator does, and what goes wrong.
func TestIAMCLI(t *testing.T) {
	e, i := installed(t, `{"Statement": {"Effect": "Allow", "Action": "iam:Get*", "Resource": "arn:aws:iam::123456789012:role/kip"}}`)
	admin := e.cli(t, aws.Credentials{AccessKeyID: testKey, SecretAccessKey: testSecret})
	const role = "arn:aws:iam::123456789012:role/kip"

	var got string
	admin.run(t, &got, "iam", "get-role", "--role-name", "kip", "--query", "Role.AssumeRolePolicyDocument.Statement[0].Action")
	if got != "sts:AssumeRoleWithWebIdentity" {
		t.Errorf("the trust policy is about %s", got)
	}
	admin.run(t, &got, "iam", "get-role-policy", "--role-name", "kip", "--policy-name", "kip", "--query", "PolicyDocument.Statement.Action")
	if got != "iam:Get*" {
		t.Errorf("the policy is about %s", got)
	}
	var names []string
	admin.run(t, &names, "iam", "list-role-policies", "--role-name", "kip", "--query", "PolicyNames")
	if len(names) != 1 || names[0] != "kip" {
		t.Errorf("the policies are %v", names)
	}
	admin.run(t, nil, "iam", "list-attached-role-policies", "--role-name", "kip")
	admin.run(t, nil, "iam", "update-assume-role-policy", "--role-name", "kip", "--policy-document", strings.Replace(trustPolicy, `"Statement": [`,
		`"Statement": [{"Effect": "Allow", "Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"},`, 1))
	admin.refused(t, "MalformedPolicyDocument", "iam", "put-role-policy", "--role-name", "kip", "--policy-name", "x", "--policy-document",
		`{"Statement": {"Effect": "Allow", "Action": "ec2:*", "Resource": "*", "Condition": {"StringMatches": {"ec2:Region": "x"}}}}`)
	admin.refused(t, "MalformedPolicyDocument", "iam", "create-role", "--role-name", "x", "--assume-role-policy-document", seedPolicy)
	admin.refused(t, "EntityAlreadyExists", "iam", "create-role", "--role-name", "kip", "--assume-role-policy-document", trustPolicy)
	admin.refused(t, "NoSuchEntity", "iam", "get-role", "--role-name", "other")
	admin.refused(t, "DeleteConflict", "iam", "delete-role", "--role-name", "kip")

	var session struct {
		Credentials     struct{ AccessKeyId, SecretAccessKey, SessionToken string }
		AssumedRoleUser struct{ Arn string }
	}
	admin.run(t, &session, "sts", "assume-role", "--role-arn", role, "--role-session-name", "me")
	me := e.cli(t, aws.Credentials{AccessKeyID: session.Credentials.AccessKeyId, SecretAccessKey: session.Credentials.SecretAccessKey,
		SessionToken: session.Credentials.SessionToken})
	var who struct{ Arn, Account, UserId string }
	me.run(t, &who, "sts", "get-caller-identity")
	if who.Arn != session.AssumedRoleUser.Arn || who.Account != AccountID || !strings.HasSuffix(who.UserId, ":me") {
		t.Errorf("I am %+v, not %+v", who, session.AssumedRoleUser)
	}
	me.run(t, nil, "iam", "get-role", "--role-name", "kip")
	me.refused(t, "AccessDenied", "iam", "delete-role", "--role-name", "kip")
	me.refused(t, "AccessDenied", "iam", "get-role", "--role-name", "other")
	me.refused(t, "UnauthorizedOperation", "ec2", "describe-vpcs")
	wrong := e.cli(t, aws.Credentials{AccessKeyID: session.Credentials.AccessKeyId, SecretAccessKey: session.Credentials.SecretAccessKey,
		SessionToken: "x" + session.Credentials.SessionToken})
	wrong.refused(t, "InvalidClientTokenId", "sts", "get-caller-identity")
	wrong = e.cli(t, aws.Credentials{AccessKeyID: testKey, SecretAccessKey: "wrong"})
	wrong.refused(t, "SignatureDoesNotMatch", "sts", "get-caller-identity")
	must(e.assume(t, i.token(t, good())))(t)

	admin.run(t, nil, "iam", "create-instance-profile", "--instance-profile-name", "p", "--tags", "Key=a,Value=b")
	admin.run(t, nil, "iam", "add-role-to-instance-profile", "--instance-profile-name", "p", "--role-name", "kip")
	admin.refused(t, "LimitExceeded", "iam", "add-role-to-instance-profile", "--instance-profile-name", "p", "--role-name", "cells")
	admin.run(t, &got, "iam", "get-instance-profile", "--instance-profile-name", "p", "--query", "InstanceProfile.Roles[0].Arn")
	if got != role {
		t.Errorf("the profile's role is %s", got)
	}
	admin.run(t, &names, "iam", "list-instance-profiles-for-role", "--role-name", "kip", "--query", "InstanceProfiles[].InstanceProfileName")
	if len(names) != 1 || names[0] != "p" {
		t.Errorf("the role's profiles are %v", names)
	}
	admin.refused(t, "DeleteConflict", "iam", "delete-instance-profile", "--instance-profile-name", "p")
	admin.run(t, nil, "iam", "remove-role-from-instance-profile", "--instance-profile-name", "p", "--role-name", "kip")
	admin.run(t, nil, "iam", "delete-instance-profile", "--instance-profile-name", "p")

	var providers []string
	admin.run(t, &providers, "iam", "list-open-id-connect-providers", "--query", "OpenIDConnectProviderList[].Arn")
	if len(providers) != 1 {
		t.Fatalf("the providers are %v", providers)
	}
	admin.run(t, &names, "iam", "get-open-id-connect-provider", "--open-id-connect-provider-arn", providers[0], "--query", "ClientIDList")
	if len(names) != 1 || names[0] != "sts.amazonaws.com" {
		t.Errorf("the provider's clients are %v", names)
	}
	admin.run(t, nil, "iam", "delete-open-id-connect-provider", "--open-id-connect-provider-arn", providers[0])
	if _, err := e.assume(t, i.token(t, good())); code(err) != "InvalidIdentityToken" {
		t.Errorf("without the provider: %v", err)
	}
	admin.run(t, nil, "iam", "delete-role-policy", "--role-name", "kip", "--policy-name", "kip")
	admin.run(t, nil, "iam", "delete-role", "--role-name", "kip")
	for _, name := range []string{"iam", "sts"} {
		for _, op := range e.operations(t, name) {
			if !e.recorder.Operations(name)[op] {
				t.Errorf("%s of %s was not tried", op, name)
			}
		}
	}
}

// operations are those of one of the services beside EC2.
func (e *endpoint) operations(t *testing.T, name string) []string {
	t.Helper()
	s, ok := e.server.services[name].(*service.Server)
	if !ok {
		t.Fatalf("%s is %T", name, e.server.services[name])
	}
	return slices.Sorted(maps.Keys(s.Operations))
}

// TestInstanceCredentials fetches the credentials of an instance's role from the metadata service, and uses them.
func TestInstanceCredentials(t *testing.T) {
	e := start(t, nil)
	ctx := t.Context()
	if err := e.server.iam.PutPolicy("cells", "p", `{"Statement": {"Effect": "Allow", "Action": "ec2:DescribeVpcs", "Resource": "*"}}`); err != nil {
		t.Fatal(err)
	}
	id := must(e.RunInstances(ctx, e.cell(t)))(t).Instances[0].InstanceId
	i, ok := e.server.metadata(must(e.server.cloud.Instance(*id))(t).Interface.Primary)
	if !ok || i.Role != "cells" {
		t.Fatalf("the instance's role is %q", i.Role)
	}
	client := ec2.New(ec2.Options{
		Region: testRegion, BaseEndpoint: aws.String(e.url), HTTPClient: e.client, Retryer: aws.NopRetryer{},
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: i.Session.AccessKeyID, SecretAccessKey: i.Session.Secret, SessionToken: i.Session.Token}, nil
		}),
	})
	must(client.DescribeVpcs(ctx, &ec2.DescribeVpcsInput{}))(t)
	if _, err := client.DescribeSubnets(ctx, &ec2.DescribeSubnetsInput{}); code(err) != "UnauthorizedOperation" {
		t.Errorf("what the role may not do: %v", err)
	}
	in := e.cell(t)
	in.ClientToken, in.IamInstanceProfile.Name = aws.String("other"), aws.String("missing")
	if _, err := e.RunInstances(ctx, in); code(err) != "InvalidParameterValue" {
		t.Errorf("a profile that does not exist: %v", err)
	}
}
