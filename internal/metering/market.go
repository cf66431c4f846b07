package metering

import (
	"context"
	"errors"
	"time"
)

// Market is where usage is sold. Its other errors are *cloudprovider.Error: the
// kinds Denied, InvalidConfiguration and Unsupported are a refusal.
type Market interface {
	// Register says that the product is in use, and whether that is allowed.
	Register(ctx context.Context) error
	// Meter reports usage. The same record may be sent any number of times.
	Meter(ctx context.Context, r Record) error
}

// Record is the usage of one hour.
type Record struct {
	// Hour is its beginning.
	Hour time.Time `json:"hour"`
	// CellHours were completed in it.
	CellHours int32 `json:"cellHours"`
}

// ErrTooOld says that the marketplace takes no records of that hour any more.
var ErrTooOld = errors.New("the hour is too long ago")

// ErrCounted says that the marketplace has another record of that hour.
var ErrCounted = errors.New("the hour was reported before, with another quantity")
