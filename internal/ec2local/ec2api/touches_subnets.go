package ec2api

func (in *deleteSubnetRequest) touches(a *API) []touched { return a.existing(in.ID) }

func (in *createSubnetRequest) touches(a *API) []touched {
	subnet := touched{arn: a.arn("subnet", "*"), keys: a.vpcKeys(), made: true, gets: tagsOf(in.Tags, "subnet")}
	return append(a.existing(in.VPCID), subnet)
}
