package kip

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/elotl/kip/v2/internal/cloudprovider/aws"
	"github.com/elotl/kip/v2/internal/config"
)

func TestBootImage(t *testing.T) {
	software := []config.Software{{Architecture: "amd64"}}
	amazons := aws.ImageSpec{Owners: []string{"amazon"}, Filters: []aws.ImageFilter{{Name: "name", Values: []string{
		"amazon-eks-node-al2023-x86_64-standard-1.36-v*", "amazon-eks-node-al2023-arm64-standard-1.36-v*",
	}}}}
	named := config.BootImageSpec{Owners: "self", Filters: "name=mine"}
	mine := aws.ImageSpec{Owners: []string{"self"}, Filters: []aws.ImageFilter{{Name: "name", Values: []string{"mine"}}}}
	cases := map[string]struct {
		reason  string
		cells   config.Cells
		version string
		want    aws.ImageSpec
		fails   bool
	}{
		"Default": {reason: "The kubelet of the cluster's version.", cells: config.Cells{Software: software}, version: "v1.36.3-eks-1a2b3c4", want: amazons},
		"Named":   {reason: "Who names one gets it.", cells: config.Cells{Software: software, BootImageSpec: named}, version: "v1.36.3", want: mine},
		"Own":     {reason: "An image that has everything is never chosen.", cells: config.Cells{BootImageSpec: named}, version: "odd", want: mine},
		"None":    {reason: "A stock image alone boots into nothing.", version: "v1.36.3"},
		"Odd":     {reason: "No image is for no version.", cells: config.Cells{Software: software}, version: "odd", fails: true},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			got, err := bootImage(&config.Config{Cells: tc.cells}, tc.version)
			if tc.fails {
				if err == nil {
					t.Errorf("%s got %+v", tc.reason, got)
				}
				return
			}
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(tc.want, got, cmpopts.EquateEmpty()); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
		})
	}
}
