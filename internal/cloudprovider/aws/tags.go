package aws

import (
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Tags that Kip writes. tagController decides what is ours; the others are for
// people, and for finding a cell's instance.
const (
	tagController = "KipControllerID"
	tagNametag    = "KipNametag"
	tagNamespace  = "KipNamespace"
	tagPodName    = "KipPodName"
	tagName       = "Name"
	tagCell       = "KipCell"
	tagCellUID    = "KipCellUID"
)

// maxTagValue is EC2's limit in characters.
const maxTagValue = 256

// instanceTags go on the instance, its volume and its network interface.
func (p *Provider) instanceTags(req cloudprovider.LaunchRequest) []types.Tag {
	name := req.CellName
	tags := p.ownTags()
	if req.Pod != nil {
		name = req.Pod.Namespace + "/" + req.Pod.Name
		tags = append(tags, tag(tagNamespace, req.Pod.Namespace), tag(tagPodName, req.Pod.Name))
	}
	if p.cfg.Nametag != "" {
		name = p.cfg.Nametag + "/" + name
	}
	return append(tags, tag(tagCell, req.CellName), tag(tagCellUID, string(req.CellUID)), tag(tagName, name))
}

// ownTags are on everything that Kip makes.
func (p *Provider) ownTags() []types.Tag {
	tags := []types.Tag{tag(tagController, p.cfg.ControllerID)}
	if p.cfg.Nametag != "" {
		tags = append(tags, tag(tagNametag, p.cfg.Nametag))
	}
	return tags
}

func tag(key, value string) types.Tag {
	if len(value) > maxTagValue {
		value = strings.ToValidUTF8(value[:maxTagValue], "")
	}
	return types.Tag{Key: aws.String(key), Value: aws.String(value)}
}

func tagValue(tags []types.Tag, key string) string {
	for _, t := range tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

func filter(name string, values ...string) types.Filter {
	return types.Filter{Name: aws.String(name), Values: values}
}

// ownFilter restricts a Describe call to what carries our controller ID.
func (p *Provider) ownFilter() types.Filter {
	return filter("tag:"+tagController, p.cfg.ControllerID)
}
