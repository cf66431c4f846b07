package aws

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/instancetype"
)

// ImageSpec selects machine images as DescribeImages does; of those that match
// the newest is used, per architecture.
type ImageSpec struct {
	Owners          []string
	ExecutableUsers []string
	ImageIDs        []string
	Filters         []ImageFilter
}

// ImageFilter is one filter of DescribeImages; any of the values will do.
type ImageFilter struct {
	Name   string
	Values []string
}

// ParseImageSpec reads the four texts of cells.bootImageSpec: lists separated
// by spaces or commas, and filters as name=value pairs separated by spaces, of
// which a value may hold alternatives separated by commas.
func ParseImageSpec(owners, executableUsers, imageIDs, filters string) (ImageSpec, error) {
	list := func(s string) []string {
		return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\t' || r == '\n' })
	}
	spec := ImageSpec{Owners: list(owners), ExecutableUsers: list(executableUsers), ImageIDs: list(imageIDs)}
	for _, pair := range strings.Fields(filters) {
		name, values, ok := strings.Cut(pair, "=")
		if !ok || name == "" || values == "" {
			return ImageSpec{}, fmt.Errorf("cells.bootImageSpec.filters: %q is not of the form name=value", pair)
		}
		spec.Filters = append(spec.Filters, ImageFilter{Name: name, Values: strings.Split(values, ",")})
	}
	return spec, nil
}

// NodeImage selects Amazon's images for EKS nodes of a version of Kubernetes,
// such as 1.36: Amazon Linux 2023, with the kubelet of that version, for both
// architectures.
func NodeImage(kubernetes string) ImageSpec {
	name := func(architecture string) string {
		return fmt.Sprintf("amazon-eks-node-al2023-%s-standard-%s-v*", architecture, kubernetes)
	}
	return ImageSpec{
		Owners:  []string{"amazon"},
		Filters: []ImageFilter{{Name: "name", Values: []string{name("x86_64"), name("arm64")}}},
	}
}

// Empty says that it selects nothing.
func (s ImageSpec) Empty() bool {
	return len(s.Owners) == 0 && len(s.ExecutableUsers) == 0 && len(s.ImageIDs) == 0 && len(s.Filters) == 0
}

// image is what a launch needs to know of one.
type image struct {
	id         string
	rootDevice string
	minGiB     int32 // a smaller root volume is refused
}

// images finds the image of each architecture.
type images struct {
	p     *Provider
	cache *cached[chosenImages]
}

// chosenImages are the newest that match, by architecture.
type chosenImages struct {
	at time.Time // when they were read
	by map[string]image
}

// all reads anew, besides what imageTTL demands, while an architecture that is
// wanted has no image: somebody may be making it.
func (i *images) all(ctx context.Context, wanted string) (map[string]image, error) {
	got, err := i.cached(ctx)
	if _, ok := got.by[wanted]; err == nil && wanted != "" && !ok && i.p.cfg.Clock.Now().Sub(got.at) >= imageMissingFor {
		i.cache.expire()
		got, err = i.cached(ctx)
	}
	return got.by, err
}

func (i *images) cached(ctx context.Context) (chosenImages, error) {
	got, stale, err := i.cache.get(ctx, i.p.cfg.Clock, imageTTL, i.read)
	if stale != nil {
		i.p.log.Warn("looking for newer images failed, using those found before", "err", stale)
	}
	return got, err
}

func (i *images) get(ctx context.Context, architecture string) (image, error) {
	architecture = cmp.Or(architecture, instancetype.AMD64)
	all, err := i.all(ctx, architecture)
	if err != nil {
		return image{}, err
	}
	got, ok := all[architecture]
	if !ok {
		return image{}, invalid(actionDescribeImages, "no "+architecture+" image matches cells.bootImageSpec")
	}
	return got, nil
}

func (i *images) expire() { i.cache.expire() }

const actionDescribeImages = "ec2:DescribeImages"

func (i *images) read(ctx context.Context) (chosenImages, error) {
	spec := i.p.cfg.Image
	if spec.Empty() {
		return chosenImages{}, invalid(actionDescribeImages, "cells.bootImageSpec is empty: no image was chosen for cells")
	}
	in := &ec2.DescribeImagesInput{
		Owners: spec.Owners, ExecutableUsers: spec.ExecutableUsers, ImageIds: spec.ImageIDs,
		Filters: []types.Filter{
			filter("architecture", ec2Architecture(instancetype.AMD64), ec2Architecture(instancetype.ARM64)),
			filter("state", "available"),
		},
	}
	for _, f := range spec.Filters {
		in.Filters = append(in.Filters, filter(f.Name, f.Values...))
	}
	var found []types.Image
	for {
		out, err := i.p.ec2.DescribeImages(ctx, in)
		if err != nil {
			return chosenImages{}, wrap(actionDescribeImages, err)
		}
		found = append(found, out.Images...)
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	chosen := chosenImages{i.p.cfg.Clock.Now(), map[string]image{}}
	for _, architecture := range []string{instancetype.AMD64, instancetype.ARM64} {
		if newest, ok := newestOf(found, architecture); ok {
			chosen.by[architecture] = newImage(newest)
			i.p.log.Info("image chosen", "image", aws.ToString(newest.ImageId), "name", aws.ToString(newest.Name), "architecture", architecture)
		}
	}
	return chosen, nil
}

func newestOf(found []types.Image, architecture string) (newest types.Image, ok bool) {
	for _, f := range found {
		if string(f.Architecture) != ec2Architecture(architecture) {
			continue
		}
		// Dates are ISO 8601 in UTC, so text compares as time does. The ID makes
		// the choice the same every time.
		if !ok || cmp.Or(strings.Compare(aws.ToString(f.CreationDate), aws.ToString(newest.CreationDate)),
			strings.Compare(aws.ToString(f.ImageId), aws.ToString(newest.ImageId))) > 0 {
			newest, ok = f, true
		}
	}
	return newest, ok
}

func newImage(i types.Image) image {
	got := image{id: aws.ToString(i.ImageId), rootDevice: cmp.Or(aws.ToString(i.RootDeviceName), "/dev/xvda")}
	for _, d := range i.BlockDeviceMappings {
		if aws.ToString(d.DeviceName) == got.rootDevice && d.Ebs != nil {
			got.minGiB = aws.ToInt32(d.Ebs.VolumeSize)
		}
	}
	return got
}

// Architectures implements cloudprovider.ArchitectureLister.
func (p *Provider) Architectures(ctx context.Context) ([]string, error) {
	all, err := p.imgs.all(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("finding architectures: %w", err)
	}
	return slices.Sorted(maps.Keys(all)), nil
}

// MachineImage is the ID of the image from which an instance of the architecture
// would be launched now. It answers from memory as Architectures does.
func (p *Provider) MachineImage(ctx context.Context, architecture string) (string, error) {
	i, err := p.imgs.get(ctx, architecture)
	if err != nil {
		return "", fmt.Errorf("finding the machine image: %w", err)
	}
	return i.id, nil
}

// ec2Architecture is EC2's word for one of Kubernetes'.
func ec2Architecture(a string) string {
	if a == instancetype.AMD64 {
		return string(types.ArchitectureValuesX8664)
	}
	return a
}
