package cloud

import (
	"path"
	"slices"
	"strconv"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// SpotMarket is what spot instances cost. Without one there are no prices and every maximum is high enough.
type SpotMarket struct {
	// Types are the names of what is sold.
	Types []string
	// USD is a type's price per hour, the same in all zones; 0 if it is unknown.
	USD func(instanceType string) float64
}

// SpotPrice is a price that differs from the market's.
type SpotPrice struct {
	// InstanceType and Zone are patterns with * and ?; empty ones match everything.
	InstanceType, Zone string
	USD                float64
}

// Quote is the price of a type in a zone, and since when.
type Quote struct {
	InstanceType, Zone string
	USD                float64
	Since              time.Time
}

// SetSpotPrices replaces what differs from the market's prices; the first that matches counts. Instances whose maximum
// is exceeded now are interrupted after the notice.
func (c *Cloud) SetSpotPrices(prices []SpotPrice, notice time.Duration) error {
	for _, p := range prices {
		for _, pattern := range []string{p.InstanceType, p.Zone} {
			if _, err := path.Match(pattern, ""); err != nil {
				return query.Errorf("InvalidParameterValue", "the pattern %q: %v", pattern, err)
			}
		}
		if p.USD <= 0 {
			return query.Errorf("InvalidParameterValue", "a price must be more than nothing")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.spotPrices, c.spotSince = slices.Clone(prices), c.Now()
	for _, i := range c.instances {
		if i.Spot == nil || i.State != Running || !i.Spot.Action.IsZero() || c.affords(i.Spot.MaxPrice, i.Type, i.Zone) {
			continue
		}
		if err := c.announce(i.ID, notice); err != nil {
			return err
		}
	}
	return nil
}

// quote is the price of a type in a zone. c.mu is held.
func (c *Cloud) quote(instanceType, zone string) (Quote, bool) {
	q := Quote{InstanceType: instanceType, Zone: zone, Since: c.world.Created}
	matches := func(pattern, s string) bool {
		ok, err := path.Match(pattern, s)
		return pattern == "" || err == nil && ok
	}
	i := slices.IndexFunc(c.spotPrices, func(p SpotPrice) bool {
		return matches(p.InstanceType, instanceType) && matches(p.Zone, zone)
	})
	switch {
	case i >= 0:
		q.USD, q.Since = c.spotPrices[i].USD, c.spotSince
	case c.cfg.SpotMarket.USD != nil:
		q.USD = c.cfg.SpotMarket.USD(instanceType)
	}
	return q, q.USD > 0
}

// affords tells whether somebody's maximum, in dollars per hour or empty, is enough. c.mu is held.
func (c *Cloud) affords(maximum, instanceType, zone string) bool {
	q, ok := c.quote(instanceType, zone)
	usd, err := strconv.ParseFloat(maximum, 64)
	return !ok || err != nil || usd >= q.USD
}

// checkMaxPrice refuses a launch that the market does not serve. c.mu is held.
func (c *Cloud) checkMaxPrice(l *Launch, zone string) error {
	if l.Spot == nil || c.affords(l.Spot.MaxPrice, l.Type, zone) {
		return nil
	}
	q, _ := c.quote(l.Type, zone)
	return query.Errorf("SpotMaxPriceTooLow", "Your Spot request price of %s is lower than the minimum required Spot "+
		"request fulfillment price of %s.", l.Spot.MaxPrice, FormatUSD(q.USD))
}

// FormatUSD writes a price as EC2 does.
func FormatUSD(usd float64) string { return strconv.FormatFloat(usd, 'f', 6, 64) }

// Quotes are all prices, ordered by type and zone. Types that nobody can tell the price of are left out.
func (c *Cloud) Quotes() []Quote {
	c.mu.Lock()
	defer c.mu.Unlock()
	var out []Quote
	for _, name := range slices.Sorted(slices.Values(c.cfg.SpotMarket.Types)) {
		if t, ok := c.cfg.Types(name); !ok || !t.Spot {
			continue
		}
		for _, zone := range c.cfg.Zones {
			if q, ok := c.quote(name, zone); ok {
				out = append(out, q)
			}
		}
	}
	return out
}
