package ec2api

import (
	"errors"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type modifyCreditsRequest struct {
	dryRun
	ClientToken    string // it can be repeated anyway
	Specifications []struct {
		InstanceID string `query:"InstanceId,required"`
		CPUCredits string `query:"CpuCredits,required"`
	} `query:"InstanceCreditSpecification,required"`
}

type modifyCreditsAnswer struct {
	query.Answer
	Successful   query.Set[creditsChanged] `xml:"successfulInstanceCreditSpecificationSet"`
	Unsuccessful query.Set[creditsRefused] `xml:"unsuccessfulInstanceCreditSpecificationSet"`
}

type creditsChanged struct {
	InstanceID string `xml:"instanceId"`
}

type creditsRefused struct {
	InstanceID string `xml:"instanceId"`
	Error      reason `xml:"error"`
}

// modifyCredits changes what it can: what is wrong with one instance does not hinder the others.
func (a *API) modifyCredits(in *modifyCreditsRequest) (*modifyCreditsAnswer, error) {
	var answer modifyCreditsAnswer
	for _, s := range in.Specifications {
		if err := checkCredits(s.CPUCredits); err != nil {
			return nil, err
		}
	}
	if in.DryRun {
		return nil, cloud.ErrDryRun()
	}
	for _, s := range in.Specifications {
		err := a.cloud.SetCredits(s.InstanceID, s.CPUCredits)
		var refused *query.Error
		switch {
		case errors.As(err, &refused):
			answer.Unsuccessful.Items = append(answer.Unsuccessful.Items,
				creditsRefused{InstanceID: s.InstanceID, Error: reason{Code: refused.Code, Message: refused.Message}})
		case err != nil:
			return nil, err
		default:
			answer.Successful.Items = append(answer.Successful.Items, creditsChanged{InstanceID: s.InstanceID})
		}
	}
	return &answer, nil
}

// checkCredits refuses what is no way to pay for CPU time.
func checkCredits(credits string) error {
	if credits != "standard" && credits != "unlimited" {
		return query.Errorf("InvalidParameterValue", "Value (%s) for parameter CpuCredits is invalid. It must be standard "+
			"or unlimited", credits)
	}
	return nil
}

type describeCreditsRequest struct {
	dryRun
	paging
	InstanceIDs []string `query:"InstanceId"`
	Filters     []filter `query:"Filter"`
}

type describeCreditsAnswer struct {
	query.Answer
	Credits   query.Set[instanceCredits] `xml:"instanceCreditSpecificationSet"`
	NextToken string                     `xml:"nextToken,omitempty"`
}

type instanceCredits struct {
	InstanceID string `xml:"instanceId"`
	CPUCredits string `xml:"cpuCredits"`
}

// describeCredits shows the instances named, or else those that are unlimited.
func (a *API) describeCredits(in *describeCreditsRequest) (*describeCreditsAnswer, error) {
	if err := in.notBoth(in.InstanceIDs, "instancesSet"); err != nil {
		return nil, err
	}
	instances, err := selectByID(a.cloud.Instances(), in.InstanceIDs, "i", func(i *cloud.Instance) string { return i.ID })
	if err != nil {
		return nil, err
	}
	instances, err = selectBy(instances, in.Filters, fields[*cloud.Instance]{
		"instance-id": one(func(i *cloud.Instance) string { return i.ID }),
	}, nil)
	if err != nil {
		return nil, err
	}
	var shown []*cloud.Instance
	for _, i := range instances {
		switch {
		case len(in.InstanceIDs) > 0 && i.CPUCredits == "":
			return nil, query.Errorf("InstanceCreditSpecification.NotSupported", "The instance '%s' is not burstable", i.ID)
		case len(in.InstanceIDs) > 0 || i.CPUCredits == "unlimited":
			shown = append(shown, i)
		}
	}
	shown, next, err := page(in.paging, shown, instanceKey)
	if err != nil {
		return nil, err
	}
	answer := &describeCreditsAnswer{NextToken: next}
	for _, i := range shown {
		answer.Credits.Items = append(answer.Credits.Items, instanceCredits{InstanceID: i.ID, CPUCredits: i.CPUCredits})
	}
	return answer, nil
}
