package aws

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

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

func (s ImageSpec) empty() bool {
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
	mu    sync.Mutex
	cache map[string]*cached[image]
}

func (i *images) of(architecture string) *cached[image] {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.cache[architecture] == nil {
		i.cache[architecture] = newCached[image]()
	}
	return i.cache[architecture]
}

func (i *images) get(ctx context.Context, architecture string) (image, error) {
	architecture = cmp.Or(architecture, instancetype.AMD64)
	got, stale, err := i.of(architecture).get(ctx, i.p.cfg.Clock, imageTTL, func(ctx context.Context) (image, error) {
		return i.read(ctx, architecture)
	})
	if stale != nil {
		i.p.log.Warn("looking for a newer image failed, using the one found before", "image", got.id, "err", stale)
	}
	return got, err
}

func (i *images) expire(architecture string) { i.of(cmp.Or(architecture, instancetype.AMD64)).expire() }

func (i *images) read(ctx context.Context, architecture string) (image, error) {
	const action = "ec2:DescribeImages"
	spec := i.p.cfg.Image
	if spec.empty() {
		return image{}, invalid(action, "cells.bootImageSpec is empty: no image was chosen for cells")
	}
	in := &ec2.DescribeImagesInput{
		Owners: spec.Owners, ExecutableUsers: spec.ExecutableUsers, ImageIds: spec.ImageIDs,
		Filters: []types.Filter{filter("architecture", ec2Architecture(architecture)), filter("state", "available")},
	}
	for _, f := range spec.Filters {
		in.Filters = append(in.Filters, filter(f.Name, f.Values...))
	}
	var found []types.Image
	for {
		out, err := i.p.ec2.DescribeImages(ctx, in)
		if err != nil {
			return image{}, wrap(action, err)
		}
		found = append(found, out.Images...)
		if aws.ToString(out.NextToken) == "" {
			break
		}
		in.NextToken = out.NextToken
	}
	if len(found) == 0 {
		return image{}, invalid(action, "no "+architecture+" image matches cells.bootImageSpec")
	}
	// Dates are ISO 8601 in UTC, so text compares as time does. The ID makes
	// the choice the same every time.
	newest := slices.MaxFunc(found, func(a, b types.Image) int {
		return cmp.Or(strings.Compare(aws.ToString(a.CreationDate), aws.ToString(b.CreationDate)),
			strings.Compare(aws.ToString(a.ImageId), aws.ToString(b.ImageId)))
	})
	got := image{id: aws.ToString(newest.ImageId), rootDevice: cmp.Or(aws.ToString(newest.RootDeviceName), "/dev/xvda")}
	for _, d := range newest.BlockDeviceMappings {
		if aws.ToString(d.DeviceName) == got.rootDevice && d.Ebs != nil {
			got.minGiB = aws.ToInt32(d.Ebs.VolumeSize)
		}
	}
	i.p.log.Info("image chosen", "image", got.id, "name", aws.ToString(newest.Name), "architecture", architecture)
	return got, nil
}

// ec2Architecture is EC2's word for one of Kubernetes'.
func ec2Architecture(a string) string {
	if a == instancetype.AMD64 {
		return string(types.ArchitectureValuesX8664)
	}
	return a
}
