package ssmapi

import (
	"regexp"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
)

// publicPrefix is where AWS's own parameters are.
const publicPrefix = "/aws/service/"

// eksImage is the parameter of the image that EKS recommends: of a version of Kubernetes, an architecture, and a
// variant, such as standard.
var eksImage = regexp.MustCompile(`^/aws/service/eks/optimized-ami/([0-9.]+)/amazon-linux-2023/(x86_64|arm64)/([a-z0-9-]+)/recommended/image_id$`)

// public finds a parameter of AWS's. An image is what EKS recommends if it is named like one, belongs to somebody else,
// and is the newest.
func (a *api) public(name string) (parameter, error) {
	match := eksImage.FindStringSubmatch(name)
	if match == nil {
		return parameter{}, notFound(name)
	}
	images, err := a.cfg.Images()
	if err != nil {
		return parameter{}, err
	}
	version, architecture, variant := match[1], match[2], match[3]
	prefix := "amazon-eks-node-al2023-" + architecture + "-" + variant + "-" + version + "-v"
	var newest cloud.Image
	for _, i := range images {
		if i.OwnerID == a.cfg.AccountID || !strings.HasPrefix(i.Name, prefix) || i.Architecture != architecture {
			continue
		}
		if newest.ID == "" || i.Created.After(newest.Created) {
			newest = i
		}
	}
	if newest.ID == "" {
		return parameter{}, notFound(name)
	}
	return parameter{Name: name, Type: "String", Value: newest.ID, Version: 1, Modified: newest.Created}, nil
}
