package ebsapi

import (
	"cmp"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/snapshot"
)

type tag struct{ Key, Value string }

type startRequest struct {
	VolumeSize  int64
	Parent      string `json:"ParentSnapshotId"`
	Tags        []tag
	Description string
	ClientToken string
	Encrypted   bool
	KMSKeyARN   string `json:"KmsKeyArn"`
	Timeout     *int
}

type startAnswer struct {
	Description string `json:",omitempty"`
	ID          string `json:"SnapshotId"`
	OwnerID     string `json:"OwnerId"`
	Status      snapshot.State
	StartTime   service.Epoch
	VolumeSize  int64
	BlockSize   int
	Tags        []tag  `json:",omitempty"`
	KMSKeyARN   string `json:"KmsKeyArn,omitempty"`
}

// The API's limits.
const (
	maxGiB             = 16384
	maxText            = 255
	minTimeout         = 10 // minutes
	maxTimeout         = 4320
	defaultTimeout     = 60
	defaultKeyID       = "6b69702d-6562-7300-8000-000000000000"
	invalidValue       = "INVALID_PARAMETER_VALUE"
	invalidCustomerKey = "INVALID_CUSTOMER_KEY"
)

var (
	keyARN = regexp.MustCompile(`^arn:aws:kms:[^:]+:[0-9]{12}:key/.+$`)
	token  = regexp.MustCompile(`^\S*$`)
)

func (a *api) start(c *service.Call, in *startRequest) (*startAnswer, error) {
	tags := map[string]string{}
	for _, t := range in.Tags {
		tags[t.Key] = t.Value
	}
	keys := policy.Keys{}
	keys.Set("ebs:Description", in.Description)
	keys.Set("ebs:VolumeSize", strconv.FormatInt(in.VolumeSize, 10))
	if len(tags) > 0 {
		keys.Tags("aws:RequestTag", tags)
		keys.Set("aws:TagKeys", slices.Sorted(maps.Keys(tags))...)
	}
	if err := a.authorize(c, "*", keys); err != nil {
		return nil, err
	}
	if err := in.check(tags); err != nil {
		return nil, err
	}
	want := snapshot.Snapshot{
		Description: in.Description, SizeGiB: in.VolumeSize, Tags: tags, Token: in.ClientToken, Timeout: defaultTimeout * time.Minute,
	}
	if in.Timeout != nil {
		want.Timeout = time.Duration(*in.Timeout) * time.Minute
	}
	if in.Encrypted {
		account := "arn:aws:kms:" + a.cfg.Cloud.Region() + ":" + a.cfg.Cloud.AccountID() + ":key/" + defaultKeyID
		want.KMSKeyARN = cmp.Or(in.KMSKeyARN, account)
	}
	var err error
	if want.ID, err = a.cfg.Cloud.NewID("snap"); err != nil {
		return nil, err
	}
	made, err := a.cfg.Snapshots.Start(want)
	if err != nil {
		return nil, refusal(err)
	}
	answer := &startAnswer{
		Description: made.Description, ID: made.ID, OwnerID: a.cfg.Cloud.AccountID(), Status: made.State(a.cfg.Now()),
		StartTime: service.Epoch(made.Started), VolumeSize: made.SizeGiB, BlockSize: snapshot.BlockSize, KMSKeyARN: made.KMSKeyARN,
	}
	for _, key := range slices.Sorted(maps.Keys(made.Tags)) {
		answer.Tags = append(answer.Tags, tag{key, made.Tags[key]})
	}
	return answer, nil
}

// check refuses what no snapshot can be.
func (in *startRequest) check(tags map[string]string) error {
	switch {
	case in.VolumeSize < 1 || in.VolumeSize > maxGiB:
		return invalid("INVALID_VOLUME_SIZE", "The volume size must be from 1 to %d GiB.", maxGiB)
	case in.Parent != "":
		return invalid("INVALID_DEPENDENCY_REQUEST", "Only snapshots without a parent are supported here.")
	case len(in.Description) > maxText:
		return invalid(invalidValue, "The description is longer than %d characters.", maxText)
	case len(in.ClientToken) > maxText || !token.MatchString(in.ClientToken):
		return invalid(invalidValue, "The client token has spaces, or more than %d characters.", maxText)
	case in.KMSKeyARN != "" && (!in.Encrypted || !keyARN.MatchString(in.KMSKeyARN)):
		return invalid(invalidCustomerKey, "A key must be an ARN, and is for encrypted snapshots.")
	case in.Timeout != nil && (*in.Timeout < minTimeout || *in.Timeout > maxTimeout):
		return invalid(invalidValue, "The timeout must be from %d to %d minutes.", minTimeout, maxTimeout)
	case len(tags) != len(in.Tags):
		return invalid("INVALID_TAG", "A tag is there twice.")
	}
	if err := cloud.CheckTags(tags); err != nil {
		return invalid("INVALID_TAG", "%v", err)
	}
	return nil
}
