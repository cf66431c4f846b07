package imds

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// Kinds of interruption.
const (
	// SpotInterruption: EC2 takes the instance back, two minutes from the notice.
	SpotInterruption = "spot-interruption"
	// RebalanceRecommendation: EC2 thinks it will take the instance back.
	RebalanceRecommendation = "rebalance-recommendation"
)

// Interruption is EC2's word that it wants, or may soon want, the instance back.
type Interruption struct {
	// Kind is SpotInterruption or RebalanceRecommendation.
	Kind string `json:"kind"`
	// Action is what EC2 will do: terminate, stop or hibernate. Empty for a
	// recommendation.
	Action string `json:"action,omitempty"`
	// Time is when EC2 acts, or when it gave the recommendation.
	Time time.Time `json:"time"`
}

// Interruptions returns the notices that stand now, none on a quiet day. One
// that cannot be read does not hide the other: what was found is returned
// beside the error.
func (c *Client) Interruptions(ctx context.Context) ([]Interruption, error) {
	var found []Interruption
	var notice struct {
		Action string    `json:"action"`
		Time   time.Time `json:"time"`
	}
	var recommendation struct {
		NoticeTime time.Time `json:"noticeTime"`
	}
	ok, err := c.optional(ctx, "meta-data/spot/instance-action", &notice)
	if ok {
		found = append(found, Interruption{Kind: SpotInterruption, Action: notice.Action, Time: notice.Time})
	}
	ok, err2 := c.optional(ctx, "meta-data/events/recommendations/rebalance", &recommendation)
	if ok {
		found = append(found, Interruption{Kind: RebalanceRecommendation, Time: recommendation.NoticeTime})
	}
	return found, errors.Join(err, err2)
}

// optional decodes a JSON item that normally does not exist.
func (c *Client) optional(ctx context.Context, item string, into any) (found bool, err error) {
	body, err := c.Get(ctx, item)
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(body, into); err != nil {
		return false, fmt.Errorf("decoding %s of the metadata service: %w", item, err)
	}
	return true, nil
}
