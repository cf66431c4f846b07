package policy

import (
	"strings"
	"testing"
)

// one is a policy of one statement with the elements given.
func one(elements string) string {
	return `{"Version": "2012-10-17", "Statement": [{` + elements + `}]}`
}

func allow(action, resource, condition string) string {
	s := `"Effect": "Allow", "Action": "` + action + `", "Resource": "` + resource + `"`
	if condition != "" {
		s += `, "Condition": ` + condition
	}
	return one(s)
}

const (
	instance = "arn:aws:ec2:us-west-2:123456789012:instance/i-0123456789abcdef0"
	anyOne   = "arn:aws:ec2:us-west-2:123456789012:instance/*"
)

func keys(pairs ...string) Keys {
	k := Keys{}
	for n := 0; n < len(pairs); n += 2 {
		k.Set(pairs[n], strings.Split(pairs[n+1], ",")...)
	}
	return k
}

func TestEvaluate(t *testing.T) {
	tagged := keys("aws:ResourceTag/KipControllerID", "c1", "ec2:InstanceType", "t3.micro", "aws:TagKeys", "Name,KipControllerID")
	cases := map[string]struct {
		reason   string
		policies []string
		action   string
		resource string
		keys     Keys
		want     Decision
	}{
		"none":             {"nothing allows", nil, "ec2:RunInstances", "*", nil, NotAllowed},
		"exact":            {"as written", []string{allow("ec2:RunInstances", "*", "")}, "ec2:RunInstances", "*", nil, Allowed},
		"case":             {"actions have no case", []string{allow("EC2:runinstances", "*", "")}, "ec2:RunInstances", "*", nil, Allowed},
		"other action":     {"another one", []string{allow("ec2:RunInstances", "*", "")}, "ec2:TerminateInstances", "*", nil, NotAllowed},
		"longer action":    {"no prefixes", []string{allow("ec2:Describe", "*", "")}, "ec2:DescribeVpcs", "*", nil, NotAllowed},
		"action wildcard":  {"any characters", []string{allow("ec2:Describe*", "*", "")}, "ec2:DescribeVpcs", "*", nil, Allowed},
		"middle wildcard":  {"in the middle", []string{allow("ec2:D*Vpcs", "*", "")}, "ec2:DescribeVpcs", "*", nil, Allowed},
		"one character":    {"? is exactly one", []string{allow("ec2:DescribeVpc?", "*", "")}, "ec2:DescribeVpcs", "*", nil, Allowed},
		"no character":     {"? is not none", []string{allow("ec2:DescribeVpcs?", "*", "")}, "ec2:DescribeVpcs", "*", nil, NotAllowed},
		"all":              {"everything", []string{allow("*", "*", "")}, "iam:PassRole", instance, nil, Allowed},
		"other service":    {"of a service", []string{allow("ec2:*", "*", "")}, "iam:PassRole", instance, nil, NotAllowed},
		"second policy":    {"one is enough", []string{allow("ec2:A", "*", ""), allow("ec2:B", "*", "")}, "ec2:B", "*", nil, Allowed},
		"not action":       {"all but", []string{one(`"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"`)}, "ec2:B", "*", nil, Allowed},
		"not this action":  {"the exception", []string{one(`"Effect": "Allow", "NotAction": "iam:*", "Resource": "*"`)}, "iam:B", "*", nil, NotAllowed},
		"deny":             {"wins", []string{allow("*", "*", ""), one(`"Effect": "Deny", "Action": "ec2:B", "Resource": "*"`)}, "ec2:B", "*", nil, Denied},
		"deny first":       {"in any order", []string{one(`"Effect": "Deny", "Action": "ec2:B", "Resource": "*"`), allow("*", "*", "")}, "ec2:B", "*", nil, Denied},
		"deny another":     {"does not concern", []string{one(`"Effect": "Deny", "Action": "ec2:B", "Resource": "*"`), allow("*", "*", "")}, "ec2:C", "*", nil, Allowed},
		"deny condition":   {"does not apply", []string{allow("*", "*", ""), one(`"Effect": "Deny", "Action": "*", "Resource": "*", "Condition": {"StringEquals": {"ec2:InstanceType": "t2.nano"}}`)}, "ec2:B", "*", tagged, Allowed},
		"resource":         {"exactly this", []string{allow("ec2:B", instance, "")}, "ec2:B", instance, nil, Allowed},
		"resource pattern": {"any instance", []string{allow("ec2:B", anyOne, "")}, "ec2:B", instance, nil, Allowed},
		"resource kinds":   {"any of a kind, also to be made", []string{allow("ec2:B", anyOne, "")}, "ec2:B", anyOne, nil, Allowed},
		"other resource":   {"a volume", []string{allow("ec2:B", "arn:aws:ec2:*:*:volume/*", "")}, "ec2:B", instance, nil, NotAllowed},
		"region":           {"of another region", []string{allow("ec2:B", "arn:aws:ec2:eu-west-1:*:*", "")}, "ec2:B", instance, nil, NotAllowed},
		"no crossing":      {"wildcards stay between colons", []string{allow("ec2:B", "arn:aws:ec2:*:instance/*:x", "")}, "ec2:B", instance, nil, NotAllowed},
		"needs all":        {"a call about nothing in particular needs *", []string{allow("ec2:DescribeVpcs", "arn:aws:ec2:*:*:vpc/*", "")}, "ec2:DescribeVpcs", "*", nil, NotAllowed},
		"not resource":     {"all but", []string{one(`"Effect": "Allow", "Action": "*", "NotResource": "arn:aws:ec2:*:*:volume/*"`)}, "ec2:B", instance, nil, Allowed},
		"not this":         {"the exception", []string{one(`"Effect": "Allow", "Action": "*", "NotResource": "` + anyOne + `"`)}, "ec2:B", instance, nil, NotAllowed},
		"two conditions":   {"both must hold", []string{allow("*", "*", `{"StringEquals": {"ec2:InstanceType": "t3.micro", "ec2:Region": "x"}}`)}, "ec2:B", "*", tagged, NotAllowed},
		"two operators":    {"both must hold", []string{allow("*", "*", `{"StringEquals": {"ec2:InstanceType": "t3.micro"}, "Null": {"ec2:Region": "true"}}`)}, "ec2:B", "*", tagged, Allowed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			var documents []*Document
			for _, text := range tc.policies {
				d, err := Parse([]byte(text))
				if err != nil {
					t.Fatal(err)
				}
				documents = append(documents, d)
			}
			if got := Evaluate(documents, Request{Action: tc.action, Resource: tc.resource, Keys: tc.keys}); got != tc.want {
				t.Errorf("%s: got %d, want %d", tc.reason, got, tc.want)
			}
		})
	}
}

func TestConditions(t *testing.T) {
	request := keys("ec2:InstanceType", "t3.micro", "aws:ResourceTag/Team", "blue", "aws:TagKeys", "Name,Team", "ec2:VolumeSize", "20",
		"ec2:Encrypted", "true", "ec2:Vpc", "arn:aws:ec2:us-west-2:123456789012:vpc/vpc-1", "aws:SourceIp", "10.1.2.3",
		"aws:CurrentTime", "2026-01-02T03:04:05Z")
	cases := map[string]struct {
		reason    string
		condition string
		want      bool
	}{
		"equals":                {"the same", `"StringEquals": {"ec2:InstanceType": "t3.micro"}`, true},
		"equals one of":         {"any of the values", `"StringEquals": {"ec2:InstanceType": ["t3.nano", "t3.micro"]}`, true},
		"equals other":          {"none of the values", `"StringEquals": {"ec2:InstanceType": ["t3.nano", "t3.small"]}`, false},
		"equals is plain":       {"wildcards are characters", `"StringEquals": {"ec2:InstanceType": "t3.*"}`, false},
		"equals case":           {"case counts", `"StringEquals": {"ec2:InstanceType": "T3.micro"}`, false},
		"ignore case":           {"unless it does not", `"StringEqualsIgnoreCase": {"ec2:InstanceType": "T3.micro"}`, true},
		"key case":              {"keys have no case", `"StringEquals": {"EC2:instancetype": "t3.micro"}`, true},
		"tag case":              {"neither in tags", `"StringEquals": {"aws:ResourceTag/team": "blue"}`, true},
		"missing":               {"nothing is equal to what is missing", `"StringEquals": {"ec2:Owner": "x"}`, false},
		"not equals":            {"another", `"StringNotEquals": {"ec2:InstanceType": "t3.nano"}`, true},
		"not equals one of":     {"none may be equal", `"StringNotEquals": {"ec2:InstanceType": ["t3.nano", "t3.micro"]}`, false},
		"not equals missing":    {"what is missing is not equal", `"StringNotEquals": {"ec2:Owner": "x"}`, true},
		"not ignoring case":     {"negated", `"StringNotEqualsIgnoreCase": {"ec2:InstanceType": "T3.micro"}`, false},
		"like":                  {"with a wildcard", `"StringLike": {"ec2:InstanceType": "t3.*"}`, true},
		"like ?":                {"one character", `"StringLike": {"ec2:InstanceType": "t?.micro"}`, true},
		"like whole":            {"the whole value", `"StringLike": {"ec2:InstanceType": "t3"}`, false},
		"not like":              {"negated", `"StringNotLike": {"ec2:InstanceType": "t3.*"}`, false},
		"exists":                {"IfExists with the key", `"StringEqualsIfExists": {"ec2:InstanceType": "t3.nano"}`, false},
		"does not exist":        {"IfExists without the key", `"StringEqualsIfExists": {"ec2:Owner": "x"}`, true},
		"not exists":            {"IfExists, negated, with the key", `"StringNotLikeIfExists": {"ec2:InstanceType": "t3.*"}`, false},
		"null":                  {"the key is not missing", `"Null": {"ec2:InstanceType": "true"}`, false},
		"null missing":          {"the key is missing", `"Null": {"ec2:Owner": "true"}`, true},
		"not null":              {"the key is there", `"Null": {"ec2:InstanceType": "false"}`, true},
		"null bare":             {"without quotes", `"Null": {"ec2:InstanceType": false}`, true},
		"bool":                  {"a truth value", `"Bool": {"ec2:Encrypted": "true"}`, true},
		"bool case":             {"in any case", `"Bool": {"ec2:Encrypted": "TRUE"}`, true},
		"bool false":            {"the other one", `"Bool": {"ec2:Encrypted": "false"}`, false},
		"bool missing":          {"not there", `"Bool": {"aws:SecureTransport": "true"}`, false},
		"arn":                   {"an ARN", `"ArnEquals": {"ec2:Vpc": "arn:aws:ec2:us-west-2:123456789012:vpc/vpc-1"}`, true},
		"arn pattern":           {"Equals is Like", `"ArnEquals": {"ec2:Vpc": "arn:aws:ec2:*:*:vpc/*"}`, true},
		"arn like":              {"parts with wildcards", `"ArnLike": {"ec2:Vpc": "arn:aws:ec2:*:*:vpc/vpc-?"}`, true},
		"arn parts":             {"wildcards do not cross colons", `"ArnLike": {"ec2:Vpc": "arn:aws:*:123456789012:vpc/vpc-1:x"}`, false},
		"arn other":             {"another", `"ArnEquals": {"ec2:Vpc": "arn:aws:ec2:*:*:vpc/vpc-2"}`, false},
		"not arn":               {"negated", `"ArnNotEquals": {"ec2:Vpc": "arn:aws:ec2:*:*:vpc/vpc-2"}`, true},
		"no arn":                {"what the request has is none", `"ArnLike": {"ec2:InstanceType": "arn:aws:ec2:*:*:*"}`, false},
		"number":                {"by value, not by digits", `"NumericEquals": {"ec2:VolumeSize": "20.0"}`, true},
		"number bare":           {"without quotes", `"NumericLessThanEquals": {"ec2:VolumeSize": 20}`, true},
		"less":                  {"strictly", `"NumericLessThan": {"ec2:VolumeSize": "20"}`, false},
		"greater":               {"strictly", `"NumericGreaterThan": {"ec2:VolumeSize": "9"}`, true},
		"at least":              {"or equal", `"NumericGreaterThanEquals": {"ec2:VolumeSize": "20"}`, true},
		"not number":            {"negated", `"NumericNotEquals": {"ec2:VolumeSize": "21"}`, true},
		"no number":             {"what the request has is none", `"NumericLessThan": {"ec2:InstanceType": "20"}`, false},
		"date":                  {"before", `"DateLessThan": {"aws:CurrentTime": "2026-02-01T00:00:00Z"}`, true},
		"date seconds":          {"since 1970", `"DateGreaterThan": {"aws:CurrentTime": "1800000000"}`, false},
		"address":               {"in a range", `"IpAddress": {"aws:SourceIp": "10.0.0.0/8"}`, true},
		"one address":           {"a range of one", `"IpAddress": {"aws:SourceIp": "10.1.2.4"}`, false},
		"not address":           {"negated", `"NotIpAddress": {"aws:SourceIp": "192.168.0.0/16"}`, true},
		"for all":               {"each must be one of", `"ForAllValues:StringEquals": {"aws:TagKeys": ["Name", "Team", "Other"]}`, true},
		"for all but one":       {"one is none of them", `"ForAllValues:StringEquals": {"aws:TagKeys": ["Name"]}`, false},
		"for all missing":       {"true of nothing", `"ForAllValues:StringEquals": {"ec2:Owner": ["x"]}`, true},
		"for all like":          {"with patterns", `"ForAllValues:StringLike": {"aws:TagKeys": ["N*", "T*"]}`, true},
		"for all not":           {"none may be", `"ForAllValues:StringNotEquals": {"aws:TagKeys": ["Other"]}`, true},
		"for all not, one is":   {"one is", `"ForAllValues:StringNotEquals": {"aws:TagKeys": ["Name"]}`, false},
		"for any":               {"one is enough", `"ForAnyValue:StringEquals": {"aws:TagKeys": ["Team"]}`, true},
		"for any, none":         {"none is", `"ForAnyValue:StringEquals": {"aws:TagKeys": ["Other"]}`, false},
		"for any missing":       {"false of nothing", `"ForAnyValue:StringEquals": {"ec2:Owner": ["x"]}`, false},
		"for any not missing":   {"false of nothing, also negated", `"ForAnyValue:StringNotEquals": {"ec2:Owner": ["x"]}`, false},
		"for any if exists":     {"unless it need not exist", `"ForAnyValue:StringEqualsIfExists": {"ec2:Owner": ["x"]}`, true},
		"for any not":           {"one is another", `"ForAnyValue:StringNotEquals": {"aws:TagKeys": ["Name"]}`, true},
		"several values, plain": {"any of the request's", `"StringEquals": {"aws:TagKeys": "Name"}`, true},
		"several values, not":   {"all of the request's", `"StringNotEquals": {"aws:TagKeys": "Name"}`, false},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d, err := Parse([]byte(allow("*", "*", "{"+tc.condition+"}")))
			if err != nil {
				t.Fatal(err)
			}
			got := Evaluate([]*Document{d}, Request{Action: "ec2:A", Resource: "*", Keys: request}) == Allowed
			if got != tc.want {
				t.Errorf("%s: got %v", tc.reason, got)
			}
		})
	}
}

func TestMalformed(t *testing.T) {
	cases := map[string]struct {
		reason, document string
		want             string // part of what is said about it
	}{
		"empty":              {"no document", ``, "empty"},
		"no json":            {"the seed's policy lacks a comma", `{"Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": ["a:B" "a:C"], "Resource": "*"}]}`, "invalid character"},
		"no statement":       {"a document without", `{"Version": "2012-10-17"}`, "Statement"},
		"empty statement":    {"an empty list", `{"Version": "2012-10-17", "Statement": []}`, "Statement"},
		"version":            {"another", `{"Version": "2012-10-18", "Statement": []}`, "version"},
		"element":            {"unknown", one(`"Effect": "Allow", "Action": "a:B", "Resource": "*", "Colour": "red"`), "Colour"},
		"element case":       {"elements have case", one(`"effect": "Allow", "Action": "a:B", "Resource": "*"`), "effect"},
		"twice":              {"an element", one(`"Effect": "Allow", "Effect": "Deny", "Action": "a:B", "Resource": "*"`), "duplicate"},
		"effect":             {"another word", one(`"Effect": "allow", "Action": "a:B", "Resource": "*"`), "Effect"},
		"no action":          {"missing", one(`"Effect": "Allow", "Resource": "*"`), "Action"},
		"both actions":       {"one of both", one(`"Effect": "Allow", "Action": "a:B", "NotAction": "a:C", "Resource": "*"`), "Action"},
		"action":             {"without a service", one(`"Effect": "Allow", "Action": "RunInstances", "Resource": "*"`), "RunInstances"},
		"action service":     {"with a wildcard there", one(`"Effect": "Allow", "Action": "*:RunInstances", "Resource": "*"`), "RunInstances"},
		"no resource":        {"missing", one(`"Effect": "Allow", "Action": "a:B"`), "Resource"},
		"resource":           {"no ARN", one(`"Effect": "Allow", "Action": "a:B", "Resource": "i-1"`), "ARN"},
		"resource case":      {"ARNs begin in lower case", one(`"Effect": "Allow", "Action": "a:B", "Resource": "ARN:aws:ec2:*:*:*"`), "ARN"},
		"short":              {"an ARN with too few parts", one(`"Effect": "Allow", "Action": "a:B", "Resource": "arn:aws:ec2:*"`), "ARN"},
		"variable":           {"nobody replaces it", one(`"Effect": "Allow", "Action": "a:B", "Resource": "arn:aws:iam::1:user/${aws:username}"`), "variables"},
		"variable in value":  {"nobody replaces it", allow("a:B", "*", `{"StringEquals": {"ec2:Region": "${aws:username}"}}`), "variables"},
		"principal":          {"only in trust policies", one(`"Effect": "Allow", "Action": "a:B", "Resource": "*", "Principal": "*"`), "Principal"},
		"sid":                {"with other characters", one(`"Sid": "a b", "Effect": "Allow", "Action": "a:B", "Resource": "*"`), "Sid"},
		"sid twice":          {"must be unique", `{"Statement": [{"Sid": "a", "Effect": "Allow", "Action": "a:B", "Resource": "*"}, {"Sid": "a", "Effect": "Allow", "Action": "a:B", "Resource": "*"}]}`, "twice"},
		"operator":           {"unknown", allow("a:B", "*", `{"StringMatches": {"ec2:Region": "x"}}`), "StringMatches"},
		"operator case":      {"operators have case", allow("a:B", "*", `{"stringequals": {"ec2:Region": "x"}}`), "stringequals"},
		"null if exists":     {"makes no sense", allow("a:B", "*", `{"NullIfExists": {"ec2:Region": "true"}}`), "NullIfExists"},
		"both sets":          {"makes no sense", allow("a:B", "*", `{"ForAllValues:ForAnyValue:StringEquals": {"ec2:Region": "true"}}`), "ForAll"},
		"key":                {"unknown", allow("a:B", "*", `{"StringEquals": {"ec2:Colour": "x"}}`), "ec2:Colour"},
		"key without tag":    {"incomplete", allow("a:B", "*", `{"StringEquals": {"aws:RequestTag/": "x"}}`), "aws:RequestTag/"},
		"key with too much":  {"no tag belongs there", allow("a:B", "*", `{"StringEquals": {"ec2:Region/x": "x"}}`), "ec2:Region/x"},
		"no value":           {"an empty list", allow("a:B", "*", `{"StringEquals": {"ec2:Region": []}}`), "no value"},
		"bool":               {"neither true nor false", allow("a:B", "*", `{"Bool": {"ec2:Encrypted": "yes"}}`), "yes"},
		"number":             {"not a number", allow("a:B", "*", `{"NumericLessThan": {"ec2:VolumeSize": "big"}}`), "big"},
		"date":               {"not a time", allow("a:B", "*", `{"DateLessThan": {"aws:CurrentTime": "noon"}}`), "noon"},
		"address":            {"not an address", allow("a:B", "*", `{"IpAddress": {"aws:SourceIp": "home"}}`), "home"},
		"arn":                {"not an ARN", allow("a:B", "*", `{"ArnEquals": {"ec2:Vpc": "vpc-1"}}`), "vpc-1"},
		"value of no string": {"an object", allow("a:B", "*", `{"StringEquals": {"ec2:Region": {}}}`), "not a string"},
		"action of no kind":  {"an object", one(`"Effect": "Allow", "Action": [{}], "Resource": "*"`), "not a string"},
		"trailing":           {"something after the document", allow("a:B", "*", "") + "{}", "invalid character"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Parse([]byte(tc.document))
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: got %v, want something about %q", tc.reason, err, tc.want)
			}
		})
	}
}

const (
	provider = "oidc.example.com/id/ABC"
	federate = `"Principal": {"Federated": "arn:aws:iam::123456789012:oidc-provider/` + provider + `"}`
	assume   = "sts:AssumeRoleWithWebIdentity"
)

func TestTrusts(t *testing.T) {
	cases := map[string]struct {
		reason    string
		statement string
		kind      string
		name      string
		action    string
		want      Decision
	}{
		"good": {"provider, subject and audience", federate + `, "Action": "` + assume + `", "Condition": {"StringEquals": {"` +
			provider + `:sub": "system:serviceaccount:kip:kip-provider", "` + provider + `:aud": "sts.amazonaws.com"}}`, "", "", assume, Allowed},
		"subject": {"another account", federate + `, "Action": "` + assume + `", "Condition": {"StringEquals": {"` +
			provider + `:sub": "system:serviceaccount:default:default"}}`, "", "", assume, NotAllowed},
		"pattern": {"with a wildcard", federate + `, "Action": "` + assume + `", "Condition": {"StringLike": {"` +
			provider + `:sub": "system:serviceaccount:kip:*"}}`, "", "", assume, Allowed},
		"other provider": {"its claims are not this token's", federate + `, "Action": "` + assume + `", "Condition": {"StringEquals": {"` +
			`other.example.com:sub": "system:serviceaccount:kip:kip-provider"}}`, "", "", assume, NotAllowed},
		"principal": {"another provider", federate + `, "Action": "` + assume + `"`, "Federated", "arn:aws:iam::123456789012:oidc-provider/other", assume, NotAllowed},
		"kind":      {"a role is no provider", federate + `, "Action": "` + assume + `"`, "AWS", "arn:aws:iam::123456789012:role/r", assume, NotAllowed},
		"action":    {"another action", federate + `, "Action": "sts:AssumeRole"`, "", "", assume, NotAllowed},
		"service":   {"EC2 for an instance profile", `"Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"`, "Service", "ec2.amazonaws.com", "sts:AssumeRole", Allowed},
		"account":   {"all of the account", `"Principal": {"AWS": "arn:aws:iam::123456789012:root"}, "Action": "sts:AssumeRole"`, "AWS", "arn:aws:iam::123456789012:user/a", "sts:AssumeRole", Allowed},
		"number":    {"the same", `"Principal": {"AWS": "123456789012"}, "Action": "sts:AssumeRole"`, "AWS", "arn:aws:iam::123456789012:user/a", "sts:AssumeRole", Allowed},
		"stranger":  {"of another account", `"Principal": {"AWS": "123456789013"}, "Action": "sts:AssumeRole"`, "AWS", "arn:aws:iam::123456789012:user/a", "sts:AssumeRole", NotAllowed},
		"everybody": {"anyone with an identity", `"Principal": "*", "Action": "sts:AssumeRole"`, "AWS", "arn:aws:iam::123456789012:user/a", "sts:AssumeRole", Allowed},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d, err := ParseTrust([]byte(one(`"Effect": "Allow", ` + tc.statement)))
			if err != nil {
				t.Fatal(err)
			}
			who := Principal{Kind: tc.kind, Name: tc.name}
			if tc.kind == "" {
				who = Principal{Kind: "Federated", Name: "arn:aws:iam::123456789012:oidc-provider/" + provider}
			}
			claims := keys(provider+":sub", "system:serviceaccount:kip:kip-provider", provider+":aud", "sts.amazonaws.com")
			if got := d.Trusts(who, Request{Action: tc.action, Resource: "*", Keys: claims}); got != tc.want {
				t.Errorf("%s: got %d, want %d", tc.reason, got, tc.want)
			}
		})
	}
}

func TestMalformedTrust(t *testing.T) {
	for name, tc := range map[string]struct{ statement, want string }{
		"no principal":     {`"Action": "sts:AssumeRole"`, "Principal"},
		"nobody":           {`"Principal": {}, "Action": "sts:AssumeRole"`, "nobody"},
		"kind":             {`"Principal": {"Person": "me"}, "Action": "sts:AssumeRole"`, "Person"},
		"wildcard":         {`"Principal": {"AWS": "arn:aws:iam::123456789012:role/*"}, "Action": "sts:AssumeRole"`, "wildcard"},
		"resource":         {federate + `, "Action": "sts:AssumeRole", "Resource": "*"`, "Resource"},
		"key":              {federate + `, "Action": "sts:AssumeRole", "Condition": {"StringEquals": {"ec2:Region": "x"}}`, "ec2:Region"},
		"not yet replaced": {federate + `, "Action": "sts:AssumeRole", "Condition": {"StringEquals": {"$OIDC_PROVIDER:name": "x"}}`, "OIDC"},
	} {
		if _, err := ParseTrust([]byte(one(`"Effect": "Allow", ` + tc.statement))); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%s: got %v, want something about %q", name, err, tc.want)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add(allow("ec2:*", instance, `{"ForAllValues:StringLike": {"aws:TagKeys": ["a*"]}}`))
	f.Add(`{"Statement": {"Effect": "Deny", "NotAction": "*", "NotResource": ["*"]}}`)
	f.Fuzz(func(t *testing.T, text string) {
		d, err := Parse([]byte(text))
		if err != nil {
			return
		}
		Evaluate([]*Document{d}, Request{Action: "ec2:A", Resource: instance, Keys: keys("aws:TagKeys", "a,b")})
	})
}

func FuzzGlob(f *testing.F) {
	f.Add("a*b?c*", "axxbyc")
	f.Fuzz(func(t *testing.T, pattern, s string) {
		if !glob("*"+pattern, s) && glob(pattern, s) {
			t.Errorf("%q matches %q, but not after a wildcard", pattern, s)
		}
		if plain := !strings.ContainsAny(pattern, "*?"); plain && glob(pattern, s) != (pattern == s) && strings.ToValidUTF8(pattern, "")+strings.ToValidUTF8(s, "") == pattern+s {
			t.Errorf("%q and %q", pattern, s)
		}
	})
}
