package ec2local

import (
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/snapshot"
)

// snapshot makes a completed snapshot with one block.
func (e *endpoint) snapshot(t *testing.T, content []byte) string {
	t.Helper()
	id, err := e.server.cloud.NewID("snap")
	if err != nil {
		t.Fatal(err)
	}
	store := e.server.snapshots
	if _, err := store.Start(snapshot.Snapshot{ID: id, SizeGiB: 3, Tags: map[string]string{"Name": "disk"}, Timeout: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	if err := store.Put(id, 1, append(content, make([]byte, snapshot.BlockSize-len(content))...)); err != nil {
		t.Fatal(err)
	}
	if _, err := store.Complete(id, 1, ""); err != nil {
		t.Fatal(err)
	}
	eventually(t, "the snapshot is completed", func() bool {
		s, err := store.Get(id)
		return err == nil && s.State(e.config.Clock.Now()) == snapshot.Completed
	})
	return id
}

func registration(name, snapshot string) *ec2.RegisterImageInput {
	return &ec2.RegisterImageInput{
		Name: aws.String(name), Architecture: types.ArchitectureValuesX8664, VirtualizationType: aws.String("hvm"),
		BootMode: types.BootModeValuesUefi, EnaSupport: aws.Bool(true), ImdsSupport: types.ImdsSupportValuesV20,
		RootDeviceName: aws.String(cloud.RootDevice),
		BlockDeviceMappings: []types.BlockDeviceMapping{{DeviceName: aws.String(cloud.RootDevice), Ebs: &types.EbsBlockDevice{
			SnapshotId: aws.String(snapshot), VolumeType: types.VolumeTypeGp3,
		}}},
	}
}

// registerImage is the part of TestEveryOperation that is about images.
func (e *endpoint) registerImage(t *testing.T, tags []types.Tag) {
	t.Helper()
	ctx := t.Context()
	id := e.snapshot(t, []byte("content"))
	shown := must(e.DescribeSnapshots(ctx, &ec2.DescribeSnapshotsInput{OwnerIds: []string{"self"},
		Filters: []types.Filter{{Name: aws.String("tag:Name"), Values: []string{"disk"}}}}))(t).Snapshots
	if len(shown) != 1 || *shown[0].SnapshotId != id || shown[0].State != types.SnapshotStateCompleted {
		t.Fatalf("the snapshots are %+v", shown)
	}
	in := registration("mine", id)
	in.TagSpecifications = []types.TagSpecification{{ResourceType: types.ResourceTypeImage, Tags: tags}}
	image := must(e.RegisterImage(ctx, in))(t).ImageId
	found := must(e.DescribeImages(ctx, &ec2.DescribeImagesInput{ImageIds: []string{*image}}))(t).Images
	if len(found) != 1 || found[0].BootMode != types.BootModeValuesUefi || *found[0].BlockDeviceMappings[0].Ebs.SnapshotId != id {
		t.Errorf("the image is %+v", found)
	}
	if _, err := e.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id}); code(err) != "InvalidSnapshot.InUse" {
		t.Errorf("deleting the snapshot of an image: %v", err)
	}

	launch := e.cell(t)
	launch.ImageId, launch.ClientToken, launch.MetadataOptions = image, aws.String("registered"), nil
	instance := must(e.RunInstances(ctx, launch))(t).Instances[0].InstanceId
	e.waitFor(t, *instance, types.InstanceStateNameRunning)
	spec := e.hypervisor.Machines()[*instance]
	disk, err := os.Open(filepath.Join(spec.Image, "disk"))
	if err != nil {
		t.Fatal(err)
	}
	defer disk.Close()
	got := make([]byte, 7)
	if _, err := disk.ReadAt(got, snapshot.BlockSize); err != nil || !bytes.Equal(got, []byte("content")) {
		t.Errorf("the machine's disk has %q, %v", got, err)
	}
	if options := e.instance(t, *instance).MetadataOptions; options.HttpTokens != types.HttpTokensStateRequired || *options.HttpPutResponseHopLimit != 2 {
		t.Errorf("the image's word on tokens was not heard: %+v", options)
	}
	must(e.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{*instance}}))(t)
	must(e.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: image}))(t)
	must(e.DeleteSnapshot(ctx, &ec2.DeleteSnapshotInput{SnapshotId: &id}))(t)
}

func TestRegisterImageRefusals(t *testing.T) {
	e, ctx := start(t, nil), t.Context()
	id := e.snapshot(t, nil)
	must(e.RegisterImage(ctx, registration("taken", id)))(t)
	pending, err := e.server.cloud.NewID("snap")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := e.server.snapshots.Start(snapshot.Snapshot{ID: pending, SizeGiB: 1, Timeout: 1 << 40}); err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason string
		change func(*ec2.RegisterImageInput)
		want   string
	}{
		"Taken":     {"Names are an account's keys.", func(in *ec2.RegisterImageInput) { in.Name = aws.String("taken") }, "InvalidAMIName.Duplicate"},
		"Name":      {"Not every name will do.", func(in *ec2.RegisterImageInput) { in.Name = aws.String("a:b") }, "InvalidAMIName.Malformed"},
		"Unknown":   {"The snapshot must be there.", func(in *ec2.RegisterImageInput) { root(in).SnapshotId = aws.String("snap-00000000000000000") }, "InvalidSnapshot.NotFound"},
		"Pending":   {"The snapshot must be whole.", func(in *ec2.RegisterImageInput) { root(in).SnapshotId = &pending }, "IncorrectState"},
		"Small":     {"Volumes hold the whole snapshot.", func(in *ec2.RegisterImageInput) { root(in).VolumeSize = aws.Int32(2) }, "InvalidBlockDeviceMapping"},
		"Encrypted": {"The snapshot is or is not.", func(in *ec2.RegisterImageInput) { root(in).Encrypted = aws.Bool(true) }, "InvalidBlockDeviceMapping"},
		"Root":      {"Nothing is guessed.", func(in *ec2.RegisterImageInput) { in.RootDeviceName = nil }, "MissingParameter"},
		"BIOS":      {"These machines boot by UEFI.", func(in *ec2.RegisterImageInput) { in.BootMode = types.BootModeValuesLegacyBios }, "Unsupported"},
		"DryRun":    {"Nothing is made.", func(in *ec2.RegisterImageInput) { in.DryRun = aws.Bool(true) }, "DryRunOperation"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			in := registration("new", id)
			tc.change(in)
			if _, err := e.RegisterImage(ctx, in); code(err) != tc.want {
				t.Errorf("%s got %v, want %s", tc.reason, err, tc.want)
			}
		})
	}
	if _, err := e.DeregisterImage(ctx, &ec2.DeregisterImageInput{ImageId: aws.String("ami-00000000000000000")}); code(err) != "InvalidAMIID.NotFound" {
		t.Errorf("an image that is not there: %v", err)
	}
	old := e.cell(t)
	old.ImageId, old.InstanceType = aws.String(e.imageNamed(t, "taken")), types.InstanceTypeT2Micro
	if _, err := e.RunInstances(ctx, old); code(err) != "InvalidParameterCombination" {
		t.Errorf("an instance type without UEFI: %v", err)
	}
}

func root(in *ec2.RegisterImageInput) *types.EbsBlockDevice { return in.BlockDeviceMappings[0].Ebs }

// imageNamed is the ID of the image with a name.
func (e *endpoint) imageNamed(t *testing.T, name string) string {
	t.Helper()
	return *must(e.DescribeImages(t.Context(), &ec2.DescribeImagesInput{
		Filters: []types.Filter{{Name: aws.String("name"), Values: []string{name}}},
	}))(t).Images[0].ImageId
}

// TestEBS writes a snapshot with the AWS CLI.
func TestEBS(t *testing.T) {
	e := start(t, nil)
	admin := e.administrator(t)
	var made struct {
		SnapshotId, Status, OwnerId, KmsKeyArn string
		BlockSize, VolumeSize                  int
	}
	begin := []string{"ebs", "start-snapshot", "--volume-size", "1", "--client-token", "one", "--description", "by the CLI", "--encrypted", "--tags", "Key=Name,Value=cli"}
	admin.run(t, &made, begin...)
	id := made.SnapshotId
	if made.Status != "pending" || made.BlockSize != snapshot.BlockSize || made.VolumeSize != 1 || !strings.HasPrefix(made.KmsKeyArn, "arn:aws:kms:") {
		t.Errorf("started %+v", made)
	}
	admin.run(t, &made, begin...)
	if made.SnapshotId != id {
		t.Errorf("the same token made %s beside %s", made.SnapshotId, id)
	}
	admin.refused(t, "ConflictException", "ebs", "start-snapshot", "--volume-size", "2", "--client-token", "one")
	admin.refused(t, "ValidationException", "ebs", "start-snapshot", "--volume-size", "16385")
	admin.refused(t, "ValidationException", "ebs", "start-snapshot", "--volume-size", "1", "--kms-key-arn", "arn:aws:kms:us-west-2:123456789012:key/x")
	admin.refused(t, "ValidationException", "ebs", "start-snapshot", "--volume-size", "1", "--parent-snapshot-id", id)

	block := bytes.Repeat([]byte("kip\n"), snapshot.BlockSize/4)
	file := filepath.Join(t.TempDir(), "block")
	if err := os.WriteFile(file, block, 0o600); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(block)
	checksum := base64.StdEncoding.EncodeToString(sum[:])
	put := func(id string, index, length int, checksum string) []string {
		return []string{"ebs", "put-snapshot-block", "--snapshot-id", id, "--block-index", strconv.Itoa(index), "--data-length", strconv.Itoa(length),
			"--block-data", file, "--checksum", checksum, "--checksum-algorithm", "SHA256", "--progress", "50"}
	}
	var written struct{ Checksum, ChecksumAlgorithm string }
	admin.run(t, &written, put(id, 7, len(block), checksum)...)
	if written.Checksum != checksum || written.ChecksumAlgorithm != "SHA256" {
		t.Errorf("wrote %+v", written)
	}
	admin.run(t, nil, put(id, 7, len(block), checksum)...)
	admin.refused(t, "ValidationException", put(id, 2048, len(block), checksum)...)
	admin.refused(t, "ValidationException", put(id, 8, 1000, checksum)...)
	admin.refused(t, "ValidationException", put(id, 8, len(block), base64.StdEncoding.EncodeToString(make([]byte, sha256.Size)))...)
	admin.refused(t, "ResourceNotFoundException", put("snap-00000000000000000", 7, len(block), checksum)...)

	whole := sha256.Sum256(sum[:])
	complete := func(count, checksum string) []string {
		return []string{"ebs", "complete-snapshot", "--snapshot-id", id, "--changed-blocks-count", count, "--checksum", checksum,
			"--checksum-algorithm", "SHA256", "--checksum-aggregation-method", "LINEAR"}
	}
	good := base64.StdEncoding.EncodeToString(whole[:])
	admin.refused(t, "ValidationException", complete("2", good)...)
	admin.refused(t, "ValidationException", complete("1", checksum)...)
	admin.run(t, &made, complete("1", good)...)
	if made.Status != "pending" {
		t.Errorf("it is %s at once", made.Status)
	}
	admin.refused(t, "ValidationException", put(id, 8, len(block), checksum)...)
	eventually(t, "the snapshot is completed", func() bool {
		var state string
		admin.run(t, &state, "ec2", "describe-snapshots", "--snapshot-ids", id, "--query", "Snapshots[0].State")
		return state == "completed"
	})
	e.tried(t, "ebs")
}
