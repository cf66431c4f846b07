package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

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
	arn, err := a.profileARN(in.Profile)
	if err == nil && arn == "" {
		err = query.Errorf("MissingParameter", "The request must contain the parameter IamInstanceProfile")
	}
	if err != nil {
		return nil, err
	}
	id, err := a.cloud.AssociateProfile(in.InstanceID, arn)
	return &associateProfileAnswer{Association: profileAssociation{
		ID: id, InstanceID: in.InstanceID, Profile: profile{ARN: arn, ID: iam.ProfileID(arn)}, State: "associating",
	}}, err
}
