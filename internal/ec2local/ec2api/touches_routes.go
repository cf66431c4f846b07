package ec2api

func (in *routeRequest) touches(a *API) []touched              { return a.existing(in.TableID) }
func (in *deleteRouteRequest) touches(a *API) []touched        { return a.existing(in.TableID) }
func (in *deleteRouteTableRequest) touches(a *API) []touched   { return a.existing(in.ID) }
func (in *replaceAssociationRequest) touches(a *API) []touched { return a.existing(in.TableID) }

func (in *associateRouteTableRequest) touches(a *API) []touched {
	return a.existing(in.TableID, in.SubnetID)
}

func (in *createRouteTableRequest) touches(a *API) []touched {
	table := touched{arn: a.arn("route-table", "*"), keys: a.vpcKeys(), made: true, gets: tagsOf(in.Tags, "route-table")}
	return append(a.existing(in.VPCID), table)
}

// touches are the table and the subnet that the association joins.
func (in *disassociateRouteTableRequest) touches(a *API) []touched {
	for _, table := range a.cloud.World().RouteTables {
		if subnet, ok := table.Subnets[in.ID]; ok {
			return a.existing(table.ID, subnet)
		}
		if table.MainID == in.ID {
			return a.existing(table.ID)
		}
	}
	return []touched{{arn: a.arn("route-table", "*")}}
}
