package ec2api

import (
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type booleanValue struct{ Value bool }

type modifyInstanceAttributeRequest struct {
	dryRun
	InstanceID            string   `query:"InstanceId,required"`
	Groups                []string `query:"GroupId"`
	SourceDestCheck       *booleanValue
	DisableAPITermination *booleanValue           `query:"DisableApiTermination"`
	ShutdownBehaviour     *struct{ Value string } `query:"InstanceInitiatedShutdownBehavior"`
	// Attribute and Value are the older way to say the same.
	Attribute string
	Value     string
}

// modifyInstanceAttribute changes exactly one attribute, as in EC2.
func (a *API) modifyInstanceAttribute(in *modifyInstanceAttributeRequest) (*done, error) {
	var attributes cloud.Attributes
	changes := 0
	if in.Groups != nil {
		attributes.Groups = in.Groups
		changes++
	}
	if in.SourceDestCheck != nil {
		attributes.SourceDestCheck = &in.SourceDestCheck.Value
		changes++
	}
	if in.DisableAPITermination != nil {
		allowed := !in.DisableAPITermination.Value
		attributes.APITermination = &allowed
		changes++
	}
	if in.ShutdownBehaviour != nil {
		attributes.ShutdownBehaviour = &in.ShutdownBehaviour.Value
		changes++
	}
	switch in.Attribute {
	case "":
	case "instanceInitiatedShutdownBehavior":
		attributes.ShutdownBehaviour = &in.Value
		changes++
	case "disableApiTermination", "sourceDestCheck":
		value := in.Value == "true"
		if !value && in.Value != "false" {
			return nil, query.Errorf("InvalidParameterValue", "Value (%s) for parameter Value is invalid. It must be true or false", in.Value)
		}
		if in.Attribute == "sourceDestCheck" {
			attributes.SourceDestCheck = &value
		} else {
			value = !value
			attributes.APITermination = &value
		}
		changes++
	default:
		return nil, query.Errorf("Unsupported", "The attribute '%s' cannot be modified here", in.Attribute)
	}
	switch {
	case changes == 0:
		return nil, query.Errorf("InvalidParameterCombination", "No attributes specified.")
	case changes > 1:
		return nil, query.Errorf("InvalidParameterCombination", "Fields for multiple attribute types specified")
	}
	return ok(a.cloud.Modify(in.InstanceID, attributes, in.DryRun))
}
