package ami

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	ebstypes "github.com/aws/aws-sdk-go-v2/service/ebs/types"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"golang.org/x/sync/errgroup"
)

const (
	// workers are how many blocks are on their way at a time.
	workers = 16
	// giveUpAfter is how long EBS waits for another block, in minutes.
	giveUpAfter = 60
	// unknownPatience is how long a snapshot that was started may be unknown to those who take the blocks: AWS's own tool
	// waits two minutes.
	unknownPatience = 2 * time.Minute
	// sealingPatience is how long a snapshot that takes no blocks any more may be pending.
	sealingPatience = time.Minute
)

// snapshot returns a completed snapshot of the disk, which it makes unless there is one.
func (r *registrar) snapshot(ctx context.Context, name string, disk io.ReaderAt, c content) (id string, err error) {
	known, err := r.known(ctx, name)
	if err != nil {
		return "", err
	}
	if known.State != types.SnapshotStateCompleted {
		if id, err = r.write(ctx, aws.ToString(known.SnapshotId), name, disk, c); err != nil {
			return "", err
		}
	} else {
		id = aws.ToString(known.SnapshotId)
		r.Progress("the disk is in " + id)
	}
	return id, r.awaitSnapshot(ctx, id)
}

// known is a snapshot of an earlier run that is of use: a completed one, else one that waits for blocks.
func (r *registrar) known(ctx context.Context, name string) (types.Snapshot, error) {
	out, err := r.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{
		OwnerIds: []string{"self"}, Filters: []types.Filter{{Name: aws.String("tag:Name"), Values: []string{name}}},
	})
	if err != nil {
		return types.Snapshot{}, fmt.Errorf("looking for a snapshot: %w", err)
	}
	var found types.Snapshot
	for _, s := range out.Snapshots {
		if r.Encrypted && !aws.ToBool(s.Encrypted) || r.KMSKeyARN != "" && r.KMSKeyARN != aws.ToString(s.KmsKeyId) {
			continue
		}
		if s.State == types.SnapshotStateCompleted || s.State == types.SnapshotStatePending && found.SnapshotId == nil {
			found = s
		}
	}
	return found, nil
}

// write writes the disk to a snapshot that waits for blocks, or to a new one if id is empty. Blocks that are there
// already are the same, and are sent again: nobody tells which they are before a snapshot is complete.
func (r *registrar) write(ctx context.Context, id, name string, disk io.ReaderAt, c content) (string, error) {
	if id == "" {
		in := &ebs.StartSnapshotInput{
			VolumeSize: aws.Int64(c.sizeGiB), Description: aws.String(name), Timeout: aws.Int32(giveUpAfter),
		}
		if r.Encrypted {
			in.Encrypted = aws.Bool(true)
		}
		if r.KMSKeyARN != "" {
			in.KmsKeyArn = aws.String(r.KMSKeyARN)
		}
		for _, t := range r.tags(name) {
			in.Tags = append(in.Tags, ebstypes.Tag{Key: t.Key, Value: t.Value})
		}
		// The SDK gives it a token of its own, for all its attempts. One that follows from the content would find a
		// snapshot that was deleted since.
		out, err := r.ebs.StartSnapshot(ctx, in)
		if err != nil {
			return "", fmt.Errorf("starting a snapshot: %w", err)
		}
		if size := aws.ToInt32(out.BlockSize); size != blockSize {
			return "", fmt.Errorf("starting a snapshot: blocks have %d bytes", size)
		}
		id = aws.ToString(out.SnapshotId)
	}
	r.Progress(fmt.Sprintf("writing %d MiB to %s", len(c.blocks)*blockSize>>20, id))
	err := r.upload(ctx, id, disk, c)
	if err == nil {
		_, err = r.ebs.CompleteSnapshot(ctx, &ebs.CompleteSnapshotInput{
			SnapshotId: aws.String(id), ChangedBlocksCount: aws.Int32(int32(len(c.blocks))),
			Checksum: aws.String(c.checksum()), ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
			ChecksumAggregationMethod: ebstypes.ChecksumAggregationMethodChecksumAggregationLinear,
		})
	}
	if code(err) == "ValidationException" && r.sealed(ctx, id) {
		return id, nil // an answer was lost, or another run was faster
	}
	if err != nil {
		return "", fmt.Errorf("writing snapshot %s: %w", id, err)
	}
	return id, nil
}

// checksum is that of all blocks' checksums.
func (c content) checksum() string {
	sum := sha256.New()
	for _, b := range c.blocks {
		sum.Write(b.sum[:])
	}
	return base64.StdEncoding.EncodeToString(sum.Sum(nil))
}

// upload sends all blocks.
func (r *registrar) upload(ctx context.Context, id string, disk io.ReaderAt, c content) error {
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(workers)
	var sent atomic.Int64
	for _, b := range c.blocks {
		if ctx.Err() != nil {
			break
		}
		group.Go(func() error {
			if err := r.put(ctx, id, disk, b); err != nil {
				return fmt.Errorf("block %d: %w", b.index, err)
			}
			if n, all := sent.Add(1), int64(len(c.blocks)); n*10/all != (n-1)*10/all {
				r.Progress(fmt.Sprintf("%d%% written", n*100/all))
			}
			return nil
		})
	}
	return group.Wait()
}

// put sends one block, also to a snapshot that is not known everywhere yet.
func (r *registrar) put(ctx context.Context, id string, disk io.ReaderAt, b block) error {
	buffer := make([]byte, blockSize)
	if err := readBlock(disk, b.index, buffer); err != nil {
		return err
	}
	if sha256.Sum256(buffer) != b.sum {
		return errors.New("the disk was changed meanwhile")
	}
	for begin := time.Now(); ; {
		_, err := r.ebs.PutSnapshotBlock(ctx, &ebs.PutSnapshotBlockInput{
			SnapshotId: aws.String(id), BlockIndex: aws.Int32(b.index), BlockData: bytes.NewReader(buffer), DataLength: aws.Int32(blockSize),
			Checksum:          aws.String(base64.StdEncoding.EncodeToString(b.sum[:])),
			ChecksumAlgorithm: ebstypes.ChecksumAlgorithmChecksumAlgorithmSha256,
		})
		if code(err) != "ResourceNotFoundException" || time.Since(begin) > unknownPatience {
			return err
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// sealed tells whether a snapshot takes no blocks any more because it has all of them. It may be on its way there.
func (r *registrar) sealed(ctx context.Context, id string) bool {
	ctx, cancel := context.WithTimeout(ctx, sealingPatience)
	defer cancel()
	return r.awaitSnapshot(ctx, id) == nil
}

func (r *registrar) describe(ctx context.Context, id string) (types.Snapshot, error) {
	out, err := r.ec2.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{SnapshotIds: []string{id}})
	if err != nil {
		return types.Snapshot{}, err
	}
	if len(out.Snapshots) == 0 {
		return types.Snapshot{}, fmt.Errorf("snapshot %s is not shown", id)
	}
	return out.Snapshots[0], nil
}

func (r *registrar) awaitSnapshot(ctx context.Context, id string) error {
	return r.wait(ctx, "the snapshot to be completed", func() (bool, error) {
		s, err := r.describe(ctx, id)
		if code(err) == "InvalidSnapshot.NotFound" {
			return false, nil // not yet shown
		}
		if err == nil && s.State == types.SnapshotStateError {
			err = fmt.Errorf("snapshot %s failed: %s", id, aws.ToString(s.StateMessage))
		}
		return s.State == types.SnapshotStateCompleted, err
	})
}
