package aws

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/marketplacemetering"

	"github.com/elotl/kip/v2/internal/metering"
)

// Marketplace is a product at AWS Marketplace, as metering.Market.
type Marketplace struct {
	client           *marketplacemetering.Client
	productCode      string
	publicKeyVersion int32
	dimension        string
}

var _ metering.Market = (*Marketplace)(nil)

// NewMarketplace prepares for a product. Usage is reported in the dimension,
// which the product defines. Of the configuration, region and credentials
// count. It calls nothing.
func NewMarketplace(ctx context.Context, cfg Config, productCode string, publicKeyVersion int32, dimension string) (*Marketplace, error) {
	sdk, _, err := loadSDK(ctx, cfg)
	if err != nil {
		return nil, err
	}
	return &Marketplace{marketplacemetering.NewFromConfig(sdk), productCode, publicKeyVersion, dimension}, nil
}

// Register implements metering.Market.
func (m *Marketplace) Register(ctx context.Context) error {
	_, err := m.client.RegisterUsage(ctx, &marketplacemetering.RegisterUsageInput{
		ProductCode: aws.String(m.productCode), PublicKeyVersion: aws.Int32(m.publicKeyVersion),
	})
	return wrap("aws-marketplace:RegisterUsage", err)
}

// Meter implements metering.Market. The record is dated to the end of its hour,
// which is the longest ago that AWS takes for certain: an hour.
func (m *Marketplace) Meter(ctx context.Context, r metering.Record) error {
	_, err := m.client.MeterUsage(ctx, &marketplacemetering.MeterUsageInput{
		ProductCode: aws.String(m.productCode), UsageDimension: aws.String(m.dimension),
		Timestamp: aws.Time(r.Hour.Add(time.Hour - time.Second)), UsageQuantity: aws.Int32(r.CellHours),
	})
	switch {
	case hasCode(err, "TimestampOutOfBoundsException"):
		return metering.ErrTooOld
	case hasCode(err, "DuplicateRequestException"):
		return metering.ErrCounted
	}
	return wrap("aws-marketplace:MeterUsage", err)
}
