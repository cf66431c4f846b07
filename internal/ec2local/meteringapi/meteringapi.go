// Package meteringapi speaks the Marketplace Metering API: who registers the use of a product, and what it meters. Every
// product code is one that the account may use, unless ec2local's administrator says otherwise.
package meteringapi

import (
	"cmp"
	"crypto/rand"
	"log/slog"
	"maps"
	"net/http"
	"slices"
	"sync"
	"time"

	"github.com/go-jose/go-jose/v4"
	"github.com/go-jose/go-jose/v4/jwt"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/statefile"
)

// Config is what the service is made of.
type Config struct {
	// File keeps what was registered and metered.
	File string
	Gate *access.Gate
	Now  func() time.Time
	Log  *slog.Logger
}

// Service is the service, and what can be seen of it from outside.
type Service struct {
	*service.Server
	cfg   Config
	store *statefile.Store[State]

	mu sync.Mutex
	// refused are the products that cannot be used, with the code of the refusal.
	refused map[string]string
}

// State is what was registered and metered. Its JSON form is what the administration API shows.
type State struct {
	// Registrations are how often each product's use was registered, by product code.
	Registrations map[string]int `json:"registrations"`
	// Records are what was metered, the oldest first.
	Records []Record `json:"records"`
}

// Clone implements [statefile.State].
func (s State) Clone() State {
	return State{Registrations: maps.Clone(s.Registrations), Records: slices.Clone(s.Records)}
}

// Record is what was metered for an hour.
type Record struct {
	ID        string    `json:"id"`
	Product   string    `json:"product"`
	Dimension string    `json:"dimension"`
	Hour      time.Time `json:"hour"`
	Quantity  int       `json:"quantity"`
}

// New makes the service.
func New(cfg Config) (*Service, error) {
	store, err := statefile.Open(cfg.File, State{Registrations: map[string]int{}, Records: []Record{}})
	if err != nil {
		return nil, err
	}
	s := &Service{cfg: cfg, store: store, refused: map[string]string{}}
	s.Server = &service.Server{
		Prefix: "aws-marketplace", Protocol: service.JSON{Target: "AWSMPMeteringService"}, Gate: cfg.Gate, Log: cfg.Log,
		Operations: map[string]service.Operation{
			"MeterUsage":    service.Op(s.meterUsage),
			"RegisterUsage": service.Op(s.registerUsage),
		},
	}
	return s, nil
}

// State returns what was registered and metered. It is not to be modified.
func (s *Service) State() State { return s.store.Now() }

// refusals are what a product can be refused for.
var refusals = map[string]string{
	"CustomerNotEntitledException": "Customer is not entitled to the product.",
	"InvalidProductCodeException":  "The product code is not valid.",
	"ThrottlingException":          "Rate exceeded",
	"InternalServiceErrorException": "An internal error has occurred. Retry your request. If the problem persists, post a message with " +
		"details on the AWS forums.",
}

// Refuse makes every use of the products given be refused with a code each, and lets all others be used.
func (s *Service) Refuse(products map[string]string) error {
	for _, code := range products {
		if refusals[code] == "" {
			return service.Errorf(http.StatusBadRequest, "InvalidParameter", "%q is not one of %v", code, slices.Sorted(maps.Keys(refusals)))
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = maps.Clone(products)
	return nil
}

// entitled tells whether a product can be used.
func (s *Service) entitled(product string) error {
	s.mu.Lock()
	code, ok := s.refused[product]
	s.mu.Unlock()
	if !ok {
		return nil
	}
	status := http.StatusBadRequest
	if code == "InternalServiceErrorException" {
		status = http.StatusInternalServerError
	}
	return service.Errorf(status, code, "%s", refusals[code])
}

// The API's limits.
const (
	maxProduct  = 255
	maxQuantity = 1<<31 - 1
	maxAge      = 6 * time.Hour
	maxAhead    = 5 * time.Minute
)

func checkProduct(code string) error {
	if code == "" || len(code) > maxProduct {
		return service.Errorf(http.StatusBadRequest, "InvalidProductCodeException", "The product code is not valid.")
	}
	return nil
}

type registerRequest struct {
	Product    string `json:"ProductCode"`
	KeyVersion int    `json:"PublicKeyVersion"`
	Nonce      string
}

type registerAnswer struct{ Signature string }

// registerUsage may be called again and again.
func (s *Service) registerUsage(c *service.Call, in *registerRequest) (*registerAnswer, error) {
	if err := c.Authorize("*", nil); err != nil {
		return nil, err
	}
	if err := checkProduct(in.Product); err != nil {
		return nil, err
	}
	if in.KeyVersion < 1 {
		return nil, service.Errorf(http.StatusBadRequest, "InvalidPublicKeyVersionException", "The public key version is invalid.")
	}
	signature, err := sign(in, s.cfg.Now())
	if err != nil {
		return nil, err
	}
	if err := s.entitled(in.Product); err != nil {
		return nil, err
	}
	return &registerAnswer{Signature: signature}, s.store.Change(func(all *State) error {
		all.Registrations[in.Product]++
		return nil
	})
}

// sign makes a token that looks like AWS's. The key is forgotten: nobody has AWS's to check it with.
func sign(in *registerRequest, now time.Time) (string, error) {
	key := make([]byte, 32)
	_, _ = rand.Read(key) // never fails
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: jose.HS256, Key: key}, (&jose.SignerOptions{}).WithType("JWT"))
	if err != nil {
		return "", err
	}
	claims := map[string]any{"productCode": in.Product, "publicKeyVersion": in.KeyVersion, "iat": now.Unix(), "nonce": in.Nonce}
	return jwt.Signed(signer).Claims(claims).Serialize()
}

type meterRequest struct {
	Product   string         `json:"ProductCode"`
	Timestamp *service.Epoch `json:"Timestamp"`
	Dimension string         `json:"UsageDimension"`
	Quantity  int            `json:"UsageQuantity"`
	DryRun    bool
	// ClientToken is no more than the rest of the request says already: the same hour is the same record.
	ClientToken string
}

type meterAnswer struct {
	RecordID string `json:"MeteringRecordId"`
}

// meterUsage records the use of an hour, once: the same again is the same record, and another quantity is refused.
func (s *Service) meterUsage(c *service.Call, in *meterRequest) (*meterAnswer, error) {
	if err := c.Authorize("*", nil); err != nil {
		return nil, err
	}
	if err := checkProduct(in.Product); err != nil {
		return nil, err
	}
	switch {
	case in.Timestamp == nil:
		return nil, service.Errorf(http.StatusBadRequest, "ValidationException", "Value at 'timestamp' must not be null")
	case in.Dimension == "":
		return nil, service.Errorf(http.StatusBadRequest, "InvalidUsageDimensionException", "The usage dimension is not valid.")
	case in.Quantity < 0 || in.Quantity > maxQuantity:
		return nil, service.Errorf(http.StatusBadRequest, "ValidationException", "Value at 'usageQuantity' must be from 0 to %d", maxQuantity)
	}
	at, now := time.Time(*in.Timestamp), s.cfg.Now()
	if at.Before(now.Add(-maxAge)) || at.After(now.Add(maxAhead)) {
		return nil, service.Errorf(http.StatusBadRequest, "TimestampOutOfBoundsException", "The timestamp %s is not within the last %s.", at.Format(time.RFC3339), maxAge)
	}
	if err := s.entitled(in.Product); err != nil || in.DryRun {
		return &meterAnswer{}, err
	}
	r := Record{ID: rand.Text(), Product: in.Product, Dimension: in.Dimension, Hour: at.UTC().Truncate(time.Hour), Quantity: in.Quantity}
	same := func(o Record) bool {
		return o.Product == r.Product && o.Dimension == r.Dimension && o.Hour.Equal(r.Hour)
	}
	err := s.store.Change(func(all *State) error {
		if n := slices.IndexFunc(all.Records, same); n >= 0 {
			known := all.Records[n]
			if known.Quantity != r.Quantity {
				return service.Errorf(http.StatusBadRequest, "DuplicateRequestException", "A metering record has already been emitted for the "+
					"dimension %s and the hour %s with another quantity.", r.Dimension, r.Hour.Format(time.RFC3339))
			}
			r.ID = known.ID
			return nil
		}
		all.Records = append(all.Records, r)
		slices.SortStableFunc(all.Records, func(x, y Record) int { return cmp.Compare(x.Hour.Unix(), y.Hour.Unix()) })
		return nil
	})
	if err != nil {
		return nil, err
	}
	return &meterAnswer{RecordID: r.ID}, nil
}
