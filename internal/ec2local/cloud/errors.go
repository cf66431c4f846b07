package cloud

import (
	"regexp"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// ErrDryRun is the refusal that says that a request with DryRun set would have succeeded.
func ErrDryRun() error {
	return query.Errorf("DryRunOperation", "Request would have succeeded, but DryRun flag is set.")
}

// nouns are the kinds of resources by the prefix of their IDs: the name in error codes and the one in sentences.
var nouns = map[string]struct{ code, words string }{
	"i":        {"InvalidInstanceID", "instance ID"},
	"ami":      {"InvalidAMIID", "image id"},
	"dopt":     {"InvalidDhcpOptionID", "dhcpOption ID"},
	"vol":      {"InvalidVolume", "volume"},
	"eni":      {"InvalidNetworkInterfaceID", "networkInterface ID"},
	"sg":       {"InvalidGroup", "security group"},
	"snap":     {"InvalidSnapshot", "snapshot"},
	"subnet":   {"InvalidSubnetID", "subnet ID"},
	"vpc":      {"InvalidVpcID", "vpc ID"},
	"rtb":      {"InvalidRouteTableID", "routeTable ID"},
	"rtbassoc": {"InvalidAssociationID", "association ID"},
	"sgr":      {"InvalidSecurityGroupRuleId", "security group rule ID"},
}

var wellFormed = regexp.MustCompile(`^[a-z]+-([0-9a-f]{8}|[0-9a-f]{17})$`)

// NotFound is the refusal for an ID of the kind given (the prefix that such IDs have) that belongs to nothing, or that
// cannot belong to anything because it is malformed.
func NotFound(kind, id string) error {
	noun, ok := nouns[kind]
	if !ok {
		return query.Errorf("InvalidID", "The ID '%s' is not valid", id)
	}
	if !wellFormed.MatchString(id) || !strings.HasPrefix(id, kind+"-") {
		code := noun.code + ".Malformed"
		if kind == "sg" {
			code = "InvalidGroupId.Malformed"
		}
		return query.Errorf(code, "Invalid id: %q (expecting %q)", id, kind+"-...")
	}
	return query.Errorf(noun.code+".NotFound", "The %s '%s' does not exist", noun.words, id)
}
