package policy

import (
	"regexp"
	"slices"
	"strings"
)

// Keys are the condition keys of a request with their values. A key that does not apply is missing.
type Keys map[string][]string

// Set sets a key. Names of keys, and of the tags in them, are the same in any case.
func (k Keys) Set(name string, values ...string) { k[strings.ToLower(name)] = values }

// Tags sets prefix/KEY for each tag, such as aws:ResourceTag/Name.
func (k Keys) Tags(prefix string, tags map[string]string) {
	for key, value := range tags {
		k.Set(prefix+"/"+key, value)
	}
}

// known are the condition keys that ec2local's services fill in wherever AWS does. Keys that end in a slash are
// followed by the name of a tag.
var known = func() map[string]bool {
	out := map[string]bool{}
	for _, name := range []string{
		// Of all calls.
		"aws:CurrentTime", "aws:EpochTime", "aws:PrincipalAccount", "aws:PrincipalArn", "aws:RequestedRegion",
		"aws:SecureTransport", "aws:SourceIp", "aws:userid",
		// Of calls that give tags, and of resources that have them.
		"aws:RequestTag/", "aws:ResourceTag/", "aws:TagKeys", "ec2:ResourceTag/",
		// Of EC2's calls.
		"ec2:Attribute", "ec2:CreateAction", "ec2:Region", "ec2:Vpc",
		// Of what EC2's calls touch.
		"ec2:AssociatePublicIpAddress", "ec2:AvailabilityZone", "ec2:EbsOptimized", "ec2:Encrypted", "ec2:ImageID",
		"ec2:InstanceID", "ec2:InstanceMarketType", "ec2:InstanceProfile", "ec2:InstanceType",
		"ec2:MetadataHttpEndpoint", "ec2:MetadataHttpPutResponseHopLimit", "ec2:MetadataHttpTokens", "ec2:Owner",
		"ec2:Public", "ec2:RootDeviceType", "ec2:Subnet", "ec2:Tenancy", "ec2:VolumeIops", "ec2:VolumeSize",
		"ec2:VolumeThroughput", "ec2:VolumeType",
		// Of the EBS direct APIs' calls.
		"ebs:Description", "ebs:VolumeSize",
		// Of EFS's calls.
		"elasticfilesystem:Encrypted",
		// Of PassRole.
		"iam:PassedToService",
	} {
		out[strings.ToLower(name)] = true
	}
	return out
}()

func knownKey(name string) bool {
	name = strings.ToLower(name)
	if prefix, tag, ok := strings.Cut(name, "/"); ok {
		return tag != "" && known[prefix+"/"]
	}
	return known[name] && !strings.HasSuffix(name, "/")
}

// webIdentityKey is a claim of a token, after the name of the provider that issued it.
var webIdentityKey = regexp.MustCompile(`^[^:]+(:[0-9]+)?(/[^:]*)?:(aud|sub)$`)

func knownTrustKey(name string) bool {
	global := []string{"aws:currenttime", "aws:epochtime", "aws:principalaccount", "aws:principalarn", "aws:securetransport", "aws:sourceip"}
	name = strings.ToLower(name)
	return slices.Contains(global, name) || webIdentityKey.MatchString(name)
}
