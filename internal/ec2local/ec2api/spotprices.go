package ec2api

import (
	"slices"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

type describeSpotPricesRequest struct {
	dryRun
	paging
	Zone      string   `query:"AvailabilityZone"`
	Types     []string `query:"InstanceType"`
	Products  []string `query:"ProductDescription"`
	StartTime time.Time
	EndTime   time.Time
	Filters   []filter `query:"Filter"`
}

type describeSpotPricesAnswer struct {
	query.Answer
	Prices    query.Set[spotPrice] `xml:"spotPriceHistorySet"`
	NextToken string               `xml:"nextToken"`
}

type spotPrice struct {
	InstanceType string     `xml:"instanceType"`
	Product      string     `xml:"productDescription"`
	USD          string     `xml:"spotPrice"`
	Since        query.Time `xml:"timestamp"`
	Zone         string     `xml:"availabilityZone"`
}

// linux is the only product that is sold.
const linux = "Linux/UNIX"

// describeSpotPriceHistory shows the price that is in force now: what was before is forgotten. As in EC2 a price that
// has been in force since before the time that is asked for is shown.
func (a *API) describeSpotPriceHistory(in *describeSpotPricesRequest) (*describeSpotPricesAnswer, error) {
	type q = cloud.Quote
	if len(in.Products) > 0 && !slices.Contains(in.Products, linux) {
		return &describeSpotPricesAnswer{}, nil
	}
	quotes := slices.DeleteFunc(a.cloud.Quotes(), func(x q) bool {
		return in.Zone != "" && x.Zone != in.Zone || len(in.Types) > 0 && !slices.Contains(in.Types, x.InstanceType) ||
			!in.EndTime.IsZero() && x.Since.After(in.EndTime)
	})
	quotes, err := selectBy(quotes, in.Filters, fields[q]{
		"availability-zone":   one(func(x q) string { return x.Zone }),
		"instance-type":       one(func(x q) string { return x.InstanceType }),
		"product-description": constant[q](linux),
		"spot-price":          one(func(x q) string { return cloud.FormatUSD(x.USD) }),
		"timestamp":           one(func(x q) string { return formatTime(x.Since) }),
	}, nil)
	if err != nil {
		return nil, err
	}
	quotes, next, err := page(in.paging, quotes, func(x q) string { return x.InstanceType + "/" + x.Zone })
	if err != nil {
		return nil, err
	}
	answer := &describeSpotPricesAnswer{NextToken: next}
	for _, x := range quotes {
		answer.Prices.Items = append(answer.Prices.Items, spotPrice{
			InstanceType: x.InstanceType, Product: linux, USD: cloud.FormatUSD(x.USD), Since: query.Time(x.Since), Zone: x.Zone,
		})
	}
	return answer, nil
}
