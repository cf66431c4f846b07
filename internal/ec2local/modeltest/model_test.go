package modeltest

import (
	"strings"
	"testing"
)

func TestCheck(t *testing.T) {
	model, err := Load(ec2)
	if err != nil {
		t.Skip(err)
	}
	const open, end = `<DescribeTagsResponse xmlns="` + namespace + `"><requestId>x</requestId>`, `</DescribeTagsResponse>`
	cases := map[string]struct {
		reason    string
		operation string
		answer    string
		want      string // part of the one problem; empty for none
	}{
		"good":    {"an answer as EC2 writes it", "DescribeTags", open + `<tagSet><item><key>k</key><resourceType>instance</resourceType></item></tagSet>` + end, ""},
		"unknown": {"SDKs would skip it", "DescribeTags", open + `<tags/>` + end, "tags is not in the model"},
		"twice":   {"SDKs would take the last", "DescribeTags", open + `<tagSet/><tagSet/>` + end, "twice"},
		"item":    {"items have their own name", "DescribeTags", open + `<tagSet><member/></tagSet>` + end, "instead of item"},
		"enum":    {"only the model's words", "DescribeTags", open + `<tagSet><item><resourceType>machine</resourceType></item></tagSet>` + end, `"machine" is not`},
		"request": {"EC2 always says it", "DescribeTags", strings.Replace(open, "<requestId>x</requestId>", "", 1) + end, "no requestId"},
		"root":    {"the root is the operation's", "DescribeVpcs", open + `<nextToken/>` + end, "the root is"},
		"return":  {"operations without output", "DeleteSecurityGroup", `<DeleteSecurityGroupResponse xmlns="` + namespace + `"><requestId>x</requestId></DeleteSecurityGroupResponse>`, "return"},
		"nothing": {"not even XML", "DescribeTags", "ok", "EOF"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got := model.Check(tc.operation, []byte(tc.answer))
			if tc.want == "" && len(got) > 0 || tc.want != "" && (len(got) != 1 || !strings.Contains(got[0], tc.want)) {
				t.Errorf("%s: got %q, want %q", tc.reason, got, tc.want)
			}
		})
	}
}
