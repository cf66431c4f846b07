// Package ami makes a machine image of EC2's of a raw disk.
//
// The disk is written to a snapshot block by block, over the EBS direct APIs, so neither an instance, a bucket nor an
// import service is needed. Only blocks that hold something are sent. The image's name has the hash of what is on the
// disk, so the same disk is the same image, and a second run has nothing left to do.
//
// Each step looks first whether it was done before: a run that was interrupted is taken up by the next one. Nothing has
// to be cleaned up: EBS itself gives up on a snapshot that nobody has written to for an hour.
package ami

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/aws/ratelimit"
	"github.com/aws/aws-sdk-go-v2/aws/retry"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/ebs"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/smithy-go"
)

// Config says what to make.
type Config struct {
	// Region is where; by default the SDK's, as all credentials are.
	Region string
	// Disk is the file: raw, and booted by UEFI firmware.
	Disk string
	// Name is what the image's name begins with; Version, if there is one, and the disk's hash follow.
	Name, Version string
	// Encrypted makes the snapshot an encrypted one, also in accounts where that is not so by default. KMSKeyARN is the
	// key, the account's for EBS if empty.
	Encrypted bool
	KMSKeyARN string
	// Tags are given to snapshot and image.
	Tags map[string]string
	// Progress is told what is done, in words, by several goroutines at a time.
	Progress func(string)
}

const (
	// architecture is that of `make cell-image`.
	architecture = types.ArchitectureValuesX8664
	rootDevice   = "/dev/xvda"
	// attempts are how often one request is sent: over 500 blocks go out as fast as they can.
	attempts   = 10
	maxBackoff = 20 * time.Second
	// patience is how long a snapshot may take to be sealed, and an image to be available. It is mostly seconds.
	patience = 15 * time.Minute
	interval = time.Second
)

// registrar makes one image.
type registrar struct {
	Config
	ebs *ebs.Client
	ec2 *ec2.Client
}

// Register returns the ID of the disk's image, which it makes unless there is one.
func Register(ctx context.Context, c Config) (imageID string, err error) {
	sdk, err := awsconfig.LoadDefaultConfig(ctx, awsconfig.WithRegion(c.Region), awsconfig.WithAppID("kip"),
		awsconfig.WithHTTPClient(awshttp.NewBuildableClient().WithTimeout(time.Minute)),
		awsconfig.WithRetryer(func() aws.Retryer {
			return retry.NewStandard(func(o *retry.StandardOptions) {
				o.MaxAttempts, o.MaxBackoff = attempts, maxBackoff
				// The SDK's own limit is for all requests together: a short trouble uses it up while many are on their way.
				o.RateLimiter = ratelimit.None
			})
		}))
	if err != nil {
		return "", fmt.Errorf("loading the AWS SDK's configuration: %w", err)
	}
	if sdk.Region == "" {
		return "", errors.New("no region is given: AWS_REGION is not set")
	}
	disk, err := os.Open(c.Disk)
	if err != nil {
		return "", fmt.Errorf("opening the disk: %w", err)
	}
	defer disk.Close()
	r := &registrar{c, ebs.NewFromConfig(sdk), ec2.NewFromConfig(sdk)}
	id, err := r.register(ctx, disk)
	if err != nil {
		return "", fmt.Errorf("making a machine image of %s: %w", c.Disk, err)
	}
	return id, nil
}

func (r *registrar) register(ctx context.Context, disk *os.File) (string, error) {
	content, err := survey(disk)
	if err != nil {
		return "", fmt.Errorf("reading the disk: %w", err)
	}
	name := r.Name
	if r.Version != "" {
		name += "-" + r.Version
	}
	name += "-" + content.hash
	id, err := r.find(ctx, name)
	if err != nil {
		return "", err
	}
	if id == "" {
		snapshot, err := r.snapshot(ctx, name, disk, content)
		if err != nil {
			return "", err
		}
		if id, err = r.registerImage(ctx, name, snapshot); err != nil {
			return "", err
		}
	}
	return id, r.awaitImage(ctx, id)
}

// find looks for an image of the account that has a name; "" if there is none.
func (r *registrar) find(ctx context.Context, name string) (string, error) {
	out, err := r.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{
		Owners:  []string{"self"},
		Filters: []types.Filter{{Name: aws.String("name"), Values: []string{name}}},
	})
	if err != nil {
		return "", fmt.Errorf("looking for the image: %w", err)
	}
	if len(out.Images) == 0 {
		return "", nil
	}
	id := aws.ToString(out.Images[0].ImageId)
	r.Progress("image " + name + " is there: " + id)
	return id, nil
}

func (r *registrar) registerImage(ctx context.Context, name, snapshot string) (string, error) {
	out, err := r.ec2.RegisterImage(ctx, &ec2.RegisterImageInput{
		Name: aws.String(name), Description: aws.String("A cell of Kip"), Architecture: architecture,
		VirtualizationType: aws.String("hvm"), BootMode: types.BootModeValuesUefi,
		EnaSupport: aws.Bool(true), ImdsSupport: types.ImdsSupportValuesV20,
		RootDeviceName: aws.String(rootDevice),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(rootDevice), Ebs: &types.EbsBlockDevice{
			SnapshotId: aws.String(snapshot), VolumeType: types.VolumeTypeGp3, DeleteOnTermination: aws.Bool(true),
		}}},
		TagSpecifications: []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: r.tags(name)}},
	})
	if code(err) == "InvalidAMIName.Duplicate" {
		// An answer was lost, or somebody else was faster. It may not be shown yet.
		var id string
		err := r.wait(ctx, "the image to be shown", func() (bool, error) {
			var err error
			id, err = r.find(ctx, name)
			return id != "", err
		})
		return id, err
	}
	if err != nil {
		return "", fmt.Errorf("registering the image: %w", err)
	}
	id := aws.ToString(out.ImageId)
	r.Progress("registered " + name + " as " + id)
	return id, nil
}

func (r *registrar) awaitImage(ctx context.Context, id string) error {
	return r.wait(ctx, "the image to be available", func() (bool, error) {
		out, err := r.ec2.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{id}})
		if code(err) == "InvalidAMIID.NotFound" {
			return false, nil // not yet shown
		}
		if err != nil || len(out.Images) == 0 {
			return false, err
		}
		switch image := out.Images[0]; image.State {
		case types.ImageStateAvailable:
			return true, nil
		case types.ImageStatePending:
			return false, nil
		default:
			return false, fmt.Errorf("image %s is %s: %s", id, image.State, aws.ToString(reason(image.StateReason)))
		}
	})
}

func reason(s *types.StateReason) *string {
	if s == nil {
		return nil
	}
	return s.Message
}

// tags are the configured ones and the name.
func (r *registrar) tags(name string) []types.Tag {
	tags := []types.Tag{{Key: aws.String("Name"), Value: aws.String(name)}}
	for key, value := range r.Tags {
		tags = append(tags, types.Tag{Key: aws.String(key), Value: aws.String(value)})
	}
	return tags
}

// wait asks again and again, for as long as patience, until done answers true or an error.
func (r *registrar) wait(ctx context.Context, what string, done func() (bool, error)) error {
	ctx, cancel := context.WithTimeoutCause(ctx, patience, fmt.Errorf("it took longer than %s", patience))
	defer cancel()
	for {
		ok, err := done()
		if err != nil {
			return fmt.Errorf("waiting for %s: %w", what, err)
		}
		if ok {
			return nil
		}
		select {
		case <-time.After(interval):
		case <-ctx.Done():
			return fmt.Errorf("waiting for %s: %w", what, context.Cause(ctx))
		}
	}
}

// code is AWS's code of an error, "" if it has none.
func code(err error) string {
	if answer, ok := errors.AsType[smithy.APIError](err); ok {
		return answer.ErrorCode()
	}
	return ""
}
