package ec2api

import (
	"net/netip"
	"strconv"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// permission is what rules of one protocol and one range of ports let pass, in an answer.
type permission struct {
	Protocol    string                `xml:"ipProtocol"`
	FromPort    *int                  `xml:"fromPort"`
	ToPort      *int                  `xml:"toPort"`
	Groups      query.Set[groupRange] `xml:"groups"`
	Ranges      query.Set[cidrRange]  `xml:"ipRanges"`
	Ranges6     query.Set[cidr6Range] `xml:"ipv6Ranges"`
	PrefixLists query.Set[struct{}]   `xml:"prefixListIds"`
}

type groupRange struct {
	UserID      string `xml:"userId"`
	GroupID     string `xml:"groupId"`
	Description string `xml:"description,omitempty"`
}

type cidrRange struct {
	CIDR        string `xml:"cidrIp"`
	Description string `xml:"description,omitempty"`
}

type cidr6Range struct {
	CIDR        string `xml:"cidrIpv6"`
	Description string `xml:"description,omitempty"`
}

// permissions puts the rules with the same protocol and ports together, as EC2 shows them.
func (a *API) permissions(rules []cloud.Rule) query.Set[permission] {
	var out query.Set[permission]
	index := map[string]int{}
	for _, r := range rules {
		key := r.Protocol + "/" + port(r.FromPort) + "/" + port(r.ToPort)
		n, ok := index[key]
		if !ok {
			n = len(out.Items)
			index[key] = n
			out.Items = append(out.Items, permission{Protocol: r.Protocol, FromPort: r.FromPort, ToPort: r.ToPort})
		}
		p, s := &out.Items[n], r.Source
		switch {
		case s.GroupID != "":
			p.Groups.Items = append(p.Groups.Items, groupRange{UserID: a.cloud.AccountID(), GroupID: s.GroupID, Description: r.Description})
		case s.CIDR6 != "":
			p.Ranges6.Items = append(p.Ranges6.Items, cidr6Range{CIDR: s.CIDR6, Description: r.Description})
		default:
			p.Ranges.Items = append(p.Ranges.Items, cidrRange{CIDR: s.CIDR, Description: r.Description})
		}
	}
	return out
}

// requestPermission is the same in a request.
type requestPermission struct {
	Protocol string `query:"IpProtocol,required"`
	FromPort *int
	ToPort   *int
	Groups   []struct {
		GroupID     string `query:"GroupId"`
		GroupName   string
		UserID      string `query:"UserId"`
		VPCID       string `query:"VpcId"`
		Description string
	}
	Ranges []struct {
		CIDR        string `query:"CidrIp,required"`
		Description string
	} `query:"IpRanges"`
	Ranges6 []struct {
		CIDR        string `query:"CidrIpv6,required"`
		Description string
	} `query:"Ipv6Ranges"`
	PrefixLists []struct {
		ID          string `query:"PrefixListId,required"`
		Description string
	} `query:"PrefixListIds"`
}

// rules takes a permission apart, one rule for each source.
func (a *API) rules(p requestPermission) ([]cloud.Rule, error) {
	base := cloud.Rule{FromPort: p.FromPort, ToPort: p.ToPort}
	var err error
	if base.Protocol, err = protocol(p); err != nil {
		return nil, err
	}
	if base.Protocol == "-1" {
		// All protocols have all ports, whatever the request says.
		base.FromPort, base.ToPort = nil, nil
	}
	var out []cloud.Rule
	add := func(s cloud.Source, description string) {
		r := base
		r.Source, r.Description = s, description
		out = append(out, r)
	}
	for _, g := range p.Groups {
		if g.UserID != "" && g.UserID != a.cloud.AccountID() {
			return nil, query.Errorf("InvalidGroup.NotFound", "There is no account %s whose group could be referred to", g.UserID)
		}
		id, err := a.groupID(g.GroupID, g.GroupName)
		if err != nil {
			return nil, err
		}
		add(cloud.Source{GroupID: id}, g.Description)
	}
	for _, r := range p.Ranges {
		cidr, err := prefix(r.CIDR, true)
		if err != nil {
			return nil, err
		}
		add(cloud.Source{CIDR: cidr}, r.Description)
	}
	for _, r := range p.Ranges6 {
		cidr, err := prefix(r.CIDR, false)
		if err != nil {
			return nil, err
		}
		add(cloud.Source{CIDR6: cidr}, r.Description)
	}
	for _, l := range p.PrefixLists {
		return nil, query.Errorf("InvalidPrefixListID.NotFound", "The prefix list ID '%s' does not exist", l.ID)
	}
	if len(out) == 0 {
		return nil, query.Errorf("MissingParameter", "Source group ID, CIDR or prefix list missing in the permission")
	}
	return out, nil
}

// protocols are the names of protocols by their numbers.
var protocols = map[string]string{"1": "icmp", "6": "tcp", "17": "udp", "58": "icmpv6", "all": "-1"}

// protocol reads a permission's protocol and checks its ports.
func protocol(p requestPermission) (string, error) {
	name := strings.ToLower(p.Protocol)
	if known, ok := protocols[name]; ok {
		name = known
	}
	ports := false
	switch name {
	case "tcp", "udp":
		ports = true
	case "icmp", "icmpv6", "-1":
	default:
		if n, err := strconv.Atoi(name); err != nil || n < 0 || n > 255 {
			return "", query.Errorf("InvalidPermission.Malformed", "Unsupported IP protocol %q", p.Protocol)
		}
	}
	if ports {
		switch from, to := p.FromPort, p.ToPort; {
		case from == nil || to == nil:
			return "", query.Errorf("MissingParameter", "The parameters fromPort and toPort are needed for %s", name)
		case *from < 0 || *to > 65535 || *from > *to:
			return "", query.Errorf("InvalidParameterValue", "Invalid port range %d to %d", *from, *to)
		}
	}
	return name, nil
}

// prefix reads a range of addresses. EC2 drops host bits silently.
func prefix(s string, ipv4 bool) (string, error) {
	p, err := netip.ParsePrefix(s)
	if err != nil || p.Addr().Is4() != ipv4 {
		return "", query.Errorf("InvalidParameterValue", "CIDR block %s is malformed", s)
	}
	return p.Masked().String(), nil
}
