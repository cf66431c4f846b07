// Package ebsapi speaks the part of the EBS direct APIs that writes snapshots.
package ebsapi

import (
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"log/slog"
	"net/http"
	"time"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/policy"
	"github.com/elotl/kip/v2/internal/ec2local/service"
	"github.com/elotl/kip/v2/internal/ec2local/snapshot"
)

// Config is what the service is made of.
type Config struct {
	// Snapshots are the account's.
	Snapshots *snapshot.Store
	// Cloud is the account.
	Cloud *cloud.Cloud
	Gate  *access.Gate
	Now   func() time.Time
	Log   *slog.Logger
}

type api struct{ cfg Config }

// What this service's requests have in common.
const (
	checksumHeader  = "x-amz-Checksum"
	algorithmHeader = "x-amz-Checksum-Algorithm"
	algorithm       = "SHA256"
	aggregation     = "LINEAR"
)

// New makes the service.
func New(cfg Config) *service.Server {
	a := &api{cfg}
	checksum := map[string]string{checksumHeader: "Checksum", algorithmHeader: "ChecksumAlgorithm"}
	with := func(more map[string]string) map[string]string {
		for header, name := range checksum {
			more[header] = name
		}
		return more
	}
	return &service.Server{
		Prefix: "ebs", Gate: cfg.Gate, Log: cfg.Log,
		Protocol: service.REST{Malformed: validation, Routes: []service.Route{
			{Action: "StartSnapshot", Method: http.MethodPost, Path: "/snapshots", Status: http.StatusCreated},
			{
				Action: "PutSnapshotBlock", Method: http.MethodPut, Path: "/snapshots/{SnapshotId}/blocks/{BlockIndex}", Status: http.StatusCreated,
				Headers: with(map[string]string{"x-amz-Data-Length": "DataLength", "x-amz-Progress": "Progress"}), Blob: "BlockData",
			},
			{
				Action: "CompleteSnapshot", Method: http.MethodPost, Path: "/snapshots/completion/{SnapshotId}", Status: http.StatusAccepted,
				Headers: with(map[string]string{"x-amz-ChangedBlocksCount": "ChangedBlocksCount", "x-amz-Checksum-Aggregation-Method": "ChecksumAggregationMethod"}),
			},
		}},
		Operations: map[string]service.Operation{
			"StartSnapshot":    service.Op(a.start),
			"PutSnapshotBlock": service.Op(a.put),
			"CompleteSnapshot": service.Op(a.complete),
		},
	}
}

// validation is the code of requests that are wrong in themselves.
const validation = "ValidationException"

// invalid is a request that is wrong, with one of the API's reasons.
func invalid(reason, format string, args ...any) error {
	err := service.Errorf(http.StatusBadRequest, validation, format, args...)
	err.Fields = map[string]string{"Reason": reason}
	return err
}

// refusal says in the API's words what the store found wrong.
func refusal(err error) error {
	switch {
	case errors.Is(err, snapshot.ErrNotFound):
		return &service.Error{Status: http.StatusNotFound, Code: "ResourceNotFoundException", Message: "The snapshot does not exist.",
			Fields: map[string]string{"Reason": "SNAPSHOT_NOT_FOUND"}}
	case errors.Is(err, snapshot.ErrConflict):
		return service.Errorf(http.StatusConflict, "ConflictException", "The client token was used with other parameters.")
	case errors.Is(err, snapshot.ErrNotPending):
		return invalid("INVALID_SNAPSHOT_ID", "The snapshot is not in the pending state.")
	case errors.Is(err, snapshot.ErrBlock):
		return invalid("INVALID_BLOCK", "The block is not one of the snapshot's.")
	case errors.Is(err, snapshot.ErrChecksum), errors.Is(err, snapshot.ErrCount):
		return invalid("INVALID_PARAMETER_VALUE", "%v", err)
	}
	return err
}

// authorize asks for the operation on a snapshot, which may not exist, or not yet.
func (a *api) authorize(c *service.Call, id string, keys policy.Keys) error {
	if s, err := a.cfg.Snapshots.Get(id); err == nil {
		keys.Tags("aws:ResourceTag", s.Tags)
	}
	return c.Authorize("arn:aws:ec2:"+a.cfg.Cloud.Region()+"::snapshot/"+id, keys)
}

type putRequest struct {
	ID        string `json:"SnapshotId"`
	Index     int    `json:"BlockIndex,string"`
	Data      []byte `json:"BlockData"`
	Length    int    `json:"DataLength,string"`
	Progress  int    `json:",string"`
	Checksum  string
	Algorithm string `json:"ChecksumAlgorithm"`
}

// putAnswer is in headers only.
type putAnswer struct{ checksum string }

// Headers implements [service.Headed].
func (p putAnswer) Headers() map[string]string {
	return map[string]string{checksumHeader: p.checksum, algorithmHeader: algorithm}
}

func (a *api) put(c *service.Call, in *putRequest) (*putAnswer, error) {
	if err := a.authorize(c, in.ID, policy.Keys{}); err != nil {
		return nil, err
	}
	sum := sha256.Sum256(in.Data)
	checksum := base64.StdEncoding.EncodeToString(sum[:])
	switch {
	case in.Length != snapshot.BlockSize || len(in.Data) != in.Length:
		return nil, invalid("INVALID_PARAMETER_VALUE", "The data must have %d bytes, which the data length says.", snapshot.BlockSize)
	case in.Progress < 0 || in.Progress > 100:
		return nil, invalid("INVALID_PARAMETER_VALUE", "The progress is a percentage.")
	case in.Algorithm != algorithm:
		return nil, invalid("INVALID_PARAMETER_VALUE", "The checksum algorithm must be %s.", algorithm)
	case in.Checksum != checksum:
		return nil, refusal(snapshot.ErrChecksum)
	}
	if err := a.cfg.Snapshots.Put(in.ID, in.Index, in.Data); err != nil {
		return nil, refusal(err)
	}
	return &putAnswer{checksum}, nil
}

type completeRequest struct {
	ID          string `json:"SnapshotId"`
	Blocks      *int   `json:"ChangedBlocksCount,string"`
	Checksum    string
	Algorithm   string `json:"ChecksumAlgorithm"`
	Aggregation string `json:"ChecksumAggregationMethod"`
}

type completeAnswer struct{ Status snapshot.State }

func (a *api) complete(c *service.Call, in *completeRequest) (*completeAnswer, error) {
	if err := a.authorize(c, in.ID, policy.Keys{}); err != nil {
		return nil, err
	}
	switch {
	case in.Blocks == nil:
		return nil, invalid("INVALID_PARAMETER_VALUE", "The number of changed blocks is missing.")
	case in.Checksum != "" && (in.Algorithm != algorithm || in.Aggregation != aggregation):
		return nil, invalid("INVALID_DEPENDENCY_REQUEST", "A checksum needs the algorithm %s and the aggregation method %s.", algorithm, aggregation)
	}
	s, err := a.cfg.Snapshots.Complete(in.ID, *in.Blocks, in.Checksum)
	if err != nil {
		return nil, refusal(err)
	}
	return &completeAnswer{s.State(a.cfg.Now())}, nil
}
