package ec2api

import (
	"crypto/sha256"
	"encoding/base32"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// ProfileID makes up the ID of an instance profile from its ARN: AIPA and 16 characters.
func ProfileID(arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return "AIPA" + base32.StdEncoding.EncodeToString(sum[:])[:16]
}

// requestProfile is an instance profile in a request: one of the two.
type requestProfile struct {
	ARN  string `query:"Arn"`
	Name string
}

// arn is the profile's ARN, empty if the request names none.
func (p requestProfile) arn(account string) (string, error) {
	switch {
	case p.Name == "":
		return p.ARN, nil
	case p.ARN != "":
		return "", query.Errorf("InvalidParameterCombination",
			"The parameters 'iamInstanceProfile.name' and 'iamInstanceProfile.arn' may not be used in combination")
	}
	return "arn:aws:iam::" + account + ":instance-profile/" + p.Name, nil
}

type associateProfileRequest struct {
	InstanceID string         `query:"InstanceId,required"`
	Profile    requestProfile `query:"IamInstanceProfile"`
}

type associateProfileAnswer struct {
	query.Answer
	Association profileAssociation `xml:"iamInstanceProfileAssociation"`
}

type profileAssociation struct {
	ID         string  `xml:"associationId"`
	InstanceID string  `xml:"instanceId"`
	Profile    profile `xml:"iamInstanceProfile"`
	State      string  `xml:"state"`
}

func (a *API) associateProfile(in *associateProfileRequest) (*associateProfileAnswer, error) {
	arn, err := in.Profile.arn(a.cloud.AccountID())
	if err == nil && arn == "" {
		err = query.Errorf("MissingParameter", "The request must contain the parameter IamInstanceProfile")
	}
	if err != nil {
		return nil, err
	}
	id, err := a.cloud.AssociateProfile(in.InstanceID, arn)
	return &associateProfileAnswer{Association: profileAssociation{
		ID: id, InstanceID: in.InstanceID, Profile: profile{ARN: arn, ID: ProfileID(arn)}, State: "associating",
	}}, err
}
