package install

import (
	"encoding/json"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/ec2local/policy"
)

// actions are the 29 that Kip's installation page has asked for since its first
// version. Whoever installed Kip has a role with these.
var actions = []string{
	"aws-marketplace:MeterUsage", "aws-marketplace:RegisterUsage",
	"ec2:AssociateIamInstanceProfile", "ec2:AuthorizeSecurityGroupIngress", "ec2:CreateRoute", "ec2:CreateSecurityGroup", "ec2:CreateTags",
	"ec2:DeleteRoute", "ec2:DeleteSecurityGroup", "ec2:DescribeAvailabilityZones", "ec2:DescribeDhcpOptions", "ec2:DescribeImages",
	"ec2:DescribeInstances", "ec2:DescribeNetworkInterfaces", "ec2:DescribeRouteTables", "ec2:DescribeSecurityGroups", "ec2:DescribeSubnets",
	"ec2:DescribeVolumes", "ec2:DescribeVpcs", "ec2:ModifyInstanceAttribute", "ec2:ModifyInstanceCreditSpecification", "ec2:ModifyVolume",
	"ec2:RevokeSecurityGroupIngress", "ec2:RunInstances", "ec2:TerminateInstances",
	"ecr:BatchGetImage", "ecr:GetAuthorizationToken", "ecr:GetDownloadUrlForLayer",
	"iam:PassRole",
}

// optional are the actions that Kip does without if need be. Roles that were
// made before do not have them.
var optional = []string{"ec2:DeleteNetworkInterface", "ec2:DeleteVolume", "ec2:DescribeInstanceStatus", "ec2:GetConsoleOutput", "ec2:StartInstances", "ec2:StopInstances"}

// words is a JSON value that IAM takes as one string or several.
type words []string

func (w *words) UnmarshalJSON(data []byte) error {
	var one string
	if err := json.Unmarshal(data, &one); err == nil {
		*w = words{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(w))
}

type statement struct {
	Sid       string                      `json:"Sid"`
	Effect    string                      `json:"Effect"`
	Principal map[string]words            `json:"Principal"`
	Action    words                       `json:"Action"`
	Resource  words                       `json:"Resource"`
	Condition map[string]map[string]words `json:"Condition"`
}

// text is one of the policies with its variables filled in.
func text(t *testing.T, name string) string {
	t.Helper()
	return os.Expand(read(t, filepath.Join("kustomize", "iam", name)), func(variable string) string {
		value, ok := map[string]string{
			"AWS_ACCOUNT_ID": "012345678910", "OIDC_PROVIDER": "oidc.eks.us-west-2.amazonaws.com/id/AAAA", "NAMESPACE": "kip",
			"KIP_SERVICE_ACCOUNT_NAME": "kip-provider", "USE_REGION": "us-west-2", "CLUSTER_NAME": "prod", "VPC_ID": "vpc-1", "KIP_CELL_ROLE_NAME": "kip-cell",
		}[variable]
		if !ok {
			t.Errorf("%s has a variable %s that the page does not set", name, variable)
		}
		return value
	})
}

// statements are those of one of the policies.
func statements(t *testing.T, name string) []statement {
	t.Helper()
	var document struct {
		Version   string      `json:"Version"`
		Statement []statement `json:"Statement"`
	}
	d := json.NewDecoder(strings.NewReader(text(t, name)))
	d.DisallowUnknownFields()
	if err := d.Decode(&document); err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	if document.Version != "2012-10-17" {
		t.Errorf("%s: version %q", name, document.Version)
	}
	for _, s := range document.Statement {
		if s.Effect != "Allow" || s.Sid == "" {
			t.Errorf("%s: statement %q has effect %q", name, s.Sid, s.Effect)
		}
	}
	return document.Statement
}

// TestPoliciesAreUnderstood: by what judges calls in place of IAM here, and is
// stricter: a condition key that does not exist makes it refuse the document.
func TestPoliciesAreUnderstood(t *testing.T) {
	for _, name := range []string{"kip-policy.json", "kip-policy-tight.json", "kip-policy-optional.json"} {
		if _, err := policy.Parse([]byte(text(t, name))); err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := policy.ParseTrust([]byte(text(t, "trust-policy.json"))); err != nil {
		t.Errorf("trust-policy.json: %v", err)
	}
}

// TestPoliciesHaveWhatKipCalls: the driver names the action of each call that it
// makes, for its errors.
func TestPoliciesHaveWhatKipCalls(t *testing.T) {
	named := regexp.MustCompile(`"((?:ec2|ecr|iam|aws-marketplace):[A-Z][A-Za-z]+)"`)
	files, err := filepath.Glob(filepath.Join(root, "internal/cloudprovider/aws/*.go"))
	if err != nil {
		t.Fatal(err)
	}
	var called []string
	for _, file := range files {
		if strings.HasSuffix(file, "_test.go") {
			continue
		}
		code, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range named.FindAllSubmatch(code, -1) {
			called = append(called, string(m[1]))
		}
	}
	if len(called) < 10 {
		t.Fatalf("only %v were found", called)
	}
	for _, action := range called {
		if !slices.Contains(actions, action) && !slices.Contains(optional, action) {
			t.Errorf("Kip calls %s, which the policies do not allow", action)
		}
	}
}

func TestPoliciesAllowTheSameActions(t *testing.T) {
	for name, want := range map[string][]string{"kip-policy.json": actions, "kip-policy-tight.json": actions, "kip-policy-optional.json": optional} {
		var got []string
		for _, s := range statements(t, name) {
			got = append(got, s.Action...)
		}
		slices.Sort(got)
		if diff := cmp.Diff(want, slices.Compact(got)); diff != "" {
			t.Errorf("%s: %s", name, diff)
		}
	}
}

// TestTightPolicyIsTight: what changes anything is bound to this controller's
// tag, or another virtual node's of the same installation, to the VPC or to one
// role.
func TestTightPolicyIsTight(t *testing.T) {
	const controller = "prod/kip/kip-provider-*"
	free := []string{"aws-marketplace:MeterUsage", "aws-marketplace:RegisterUsage", "ecr:GetAuthorizationToken"}
	bound := map[string]string{
		"aws:RequestTag/KipControllerID": controller, "ec2:ResourceTag/KipControllerID": controller,
		"ec2:Vpc": "arn:aws:ec2:us-west-2:012345678910:vpc/vpc-1", "iam:PassedToService": "ec2.amazonaws.com", "aws:RequestedRegion": "us-west-2",
	}
	for _, s := range statements(t, "kip-policy-tight.json") {
		tight := 0
		for _, condition := range s.Condition {
			for key, values := range condition {
				if want, ok := bound[key]; ok {
					tight++
					if len(values) != 1 || values[0] != want {
						t.Errorf("%s: %s is %q, want %q", s.Sid, key, values, want)
					}
				}
			}
		}
		wide := slices.Contains(s.Resource, "*")
		for _, action := range s.Action {
			look := strings.HasPrefix(action, "ec2:Describe")
			if wide && !look && !slices.Contains(free, action) {
				t.Errorf("%s: %s is allowed on everything", s.Sid, action)
			}
			switch action {
			case "ec2:RunInstances", "ec2:CreateSecurityGroup":
				// Images are nobody's; a VPC has one name.
				for _, r := range s.Resource {
					if tight == 0 && !strings.HasSuffix(r, ":vpc/vpc-1") && !strings.HasSuffix(r, "::image/*") && !strings.HasSuffix(r, "::snapshot/*") {
						t.Errorf("%s: %s on %s without a condition", s.Sid, action, r)
					}
				}
			default:
				if tight == 0 && !slices.Contains(free, action) && !strings.HasPrefix(action, "ecr:") {
					t.Errorf("%s: %s without a condition", s.Sid, action)
				}
			}
		}
	}
}

func TestTrustPolicy(t *testing.T) {
	got := statements(t, "trust-policy.json")
	want := []statement{{
		Sid: "KipServiceAccount", Effect: "Allow",
		Principal: map[string]words{"Federated": {"arn:aws:iam::012345678910:oidc-provider/oidc.eks.us-west-2.amazonaws.com/id/AAAA"}},
		Action:    words{"sts:AssumeRoleWithWebIdentity"},
		Condition: map[string]map[string]words{"StringEquals": {
			"oidc.eks.us-west-2.amazonaws.com/id/AAAA:aud": {"sts.amazonaws.com"},
			"oidc.eks.us-west-2.amazonaws.com/id/AAAA:sub": {"system:serviceaccount:kip:kip-provider"},
		}},
	}}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}
