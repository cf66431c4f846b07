package modeltest

import (
	"net/http/httptest"
	"strings"
	"testing"
)

func TestCheckServices(t *testing.T) {
	const open = `<GetCallerIdentityResponse xmlns="https://sts.amazonaws.com/doc/2011-06-15/">`
	const end = `<ResponseMetadata><RequestId>x</RequestId></ResponseMetadata></GetCallerIdentityResponse>`
	const listed = `<ListRolePoliciesResponse xmlns="https://iam.amazonaws.com/doc/2010-05-08/"><ListRolePoliciesResult>`
	const listEnd = `</ListRolePoliciesResult><ResponseMetadata><RequestId>x</RequestId></ResponseMetadata></ListRolePoliciesResponse>`
	cases := map[string]struct {
		reason             string
		service, operation string
		answer             string
		want               string // part of the one problem; empty for none
	}{
		"query":           {"an answer as STS writes it", "sts", "GetCallerIdentity", open + `<GetCallerIdentityResult><Arn>a</Arn></GetCallerIdentityResult>` + end, ""},
		"query wrapper":   {"the result is an element", "sts", "GetCallerIdentity", open + `<Arn>a</Arn>` + end, "instead of"},
		"query namespace": {"each service has its own", "sts", "GetCallerIdentity", strings.Replace(open, "sts.", "iam.", 1) + `<GetCallerIdentityResult/>` + end, "the root is"},
		"query request":   {"there always is one", "sts", "GetCallerIdentity", open + `<GetCallerIdentityResult/>` + strings.Replace(end, "x", "", 1), "no RequestId"},
		"query unknown":   {"SDKs would skip it", "sts", "GetCallerIdentity", open + `<GetCallerIdentityResult><Name>a</Name></GetCallerIdentityResult>` + end, "Name is not in the model"},
		"members":         {"items are called member", "iam", "ListRolePolicies", listed + `<PolicyNames><member>a</member></PolicyNames>` + listEnd, ""},
		"items":           {"as they are in EC2", "iam", "ListRolePolicies", listed + `<PolicyNames><item>a</item></PolicyNames>` + listEnd, "instead of member"},
		"required":        {"the list must be there", "iam", "ListRolePolicies", listed + listEnd, "PolicyNames is missing"},
		"json":            {"an answer as ECR writes it", "ecr", "GetAuthorizationToken", `{"authorizationData": [{"authorizationToken": "x", "expiresAt": 1.5}]}`, ""},
		"json unknown":    {"SDKs would skip it", "ecr", "GetAuthorizationToken", `{"data": []}`, "data is not in the model"},
		"json case":       {"names have case", "ecr", "GetAuthorizationToken", `{"AuthorizationData": []}`, "not in the model"},
		"json time":       {"times are numbers", "ecr", "GetAuthorizationToken", `{"authorizationData": [{"expiresAt": "2026-01-02T03:04:05Z"}]}`, "not a timestamp"},
		"json list":       {"a list is one", "ecr", "GetAuthorizationToken", `{"authorizationData": {}}`, "not a list"},
		"json required":   {"a field of each file system", "elasticfilesystem", "DescribeMountTargetSecurityGroups", `{}`, "SecurityGroups is missing"},
		"json enum":       {"only the model's words", "ssm", "PutParameter", `{"Tier": "Best"}`, "Best is not"},
		"json integer":    {"no fractions", "ssm", "PutParameter", `{"Version": 1.5}`, "not a long"},
		"json garbage":    {"not even JSON", "ssm", "PutParameter", `ok`, "invalid character"},
		"nothing":         {"operations without output", "elasticfilesystem", "DeleteFileSystem", ``, ""},
		"something":       {"must say nothing", "elasticfilesystem", "DeleteFileSystem", `{"a": 1}`, "must be empty"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			model, err := Load(tc.service)
			if err != nil {
				t.Skip(err)
			}
			got := model.Check(tc.operation, []byte(tc.answer))
			if tc.want == "" && len(got) > 0 || tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)) {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}

func TestRESTOperation(t *testing.T) {
	model, err := Load("elasticfilesystem")
	if err != nil {
		t.Skip(err)
	}
	for request, want := range map[string]string{
		"GET /2015-02-01/file-systems":                            "DescribeFileSystems",
		"POST /2015-02-01/file-systems":                           "CreateFileSystem",
		"DELETE /2015-02-01/file-systems/fs-1":                    "DeleteFileSystem",
		"PUT /2015-02-01/mount-targets/fsmt-1/security-groups":    "ModifyMountTargetSecurityGroups",
		"DELETE /2015-02-01/mount-targets/fsmt-1/security-groups": "",
	} {
		method, path, _ := strings.Cut(request, " ")
		if got := model.restOperation(httptest.NewRequest(method, path, nil)); got != want {
			t.Errorf("%s is %q, want %q", request, got, want)
		}
	}
}
