package ec2local

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
)

// TestAWSCLI drives ec2local with a program that was made for EC2.
func TestAWSCLI(t *testing.T) {
	aws := "/usr/bin/aws" // Debian's, whatever else is in the path
	if _, err := os.Stat(aws); err != nil {
		if aws, err = exec.LookPath("aws"); err != nil {
			t.Skip("the AWS CLI is not installed (Debian's package is awscli)")
		}
	}
	e := start(t, nil)
	endpoint := e.recorded(t)
	home := t.TempDir()
	run := func(result any, args ...string) {
		t.Helper()
		cmd := exec.Command(aws, append([]string{"--endpoint-url", endpoint, "--output", "json", "ec2"}, args...)...)
		cmd.Env = []string{
			"PATH=" + os.Getenv("PATH"), "HOME=" + home, "AWS_DEFAULT_REGION=" + testRegion, "AWS_PAGER=", "NO_PROXY=*",
			"AWS_ACCESS_KEY_ID=" + testKey, "AWS_SECRET_ACCESS_KEY=" + testSecret, "AWS_EC2_METADATA_DISABLED=true",
		}
		var problems strings.Builder
		cmd.Stderr = &problems
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("aws ec2 %v: %v: %s", args, err, problems.String())
		}
		if result == nil {
			return
		}
		if err := json.Unmarshal(out, result); err != nil {
			t.Fatalf("aws ec2 %v: %v in %s", args, err, out)
		}
	}

	var image, id string
	run(&image, "describe-images", "--owners", "self", "--query", "Images[0].ImageId")
	run(&id, "run-instances", "--image-id", image, "--instance-type", "t3.micro", "--user-data", "data",
		"--instance-initiated-shutdown-behavior", "terminate",
		"--metadata-options", "HttpTokens=required,HttpPutResponseHopLimit=1",
		"--block-device-mappings", "DeviceName=/dev/xvda,Ebs={VolumeSize=8,VolumeType=gp3,Encrypted=true}",
		"--network-interfaces", "DeviceIndex=0,SubnetId="+e.subnets(t)[0]+",SecondaryPrivateIpAddressCount=1",
		"--tag-specifications", "ResourceType=instance,Tags=[{Key=Name,Value=cli}]", "ResourceType=volume,Tags=[{Key=Name,Value=cli}]",
		"--query", "Instances[0].InstanceId")
	e.waitFor(t, id, types.InstanceStateNameRunning) // the CLI's own wait looks every 15 s only
	var listed [][]string
	run(&listed, "describe-instances", "--filters", "Name=tag:Name,Values=c?i", "Name=instance-state-name,Values=running",
		"--query", "Reservations[].Instances[].[InstanceId, InstanceType, PrivateIpAddress]")
	if len(listed) != 1 || listed[0][0] != id || listed[0][1] != "t3.micro" {
		t.Errorf("the list of instances is %v, want %s", listed, id)
	}
	run(nil, "create-tags", "--resources", id, "--tags", "Key=a,Value=b")
	var volumes []string
	run(&volumes, "describe-volumes", "--filters", "Name=attachment.instance-id,Values="+id, "--query", "Volumes[].VolumeId")
	if len(volumes) != 1 {
		t.Errorf("the volumes are %v", volumes)
	}
	var groups, zones, vpcs []string
	run(&groups, "describe-security-groups", "--query", "SecurityGroups[].GroupName")
	run(&zones, "describe-availability-zones", "--query", "AvailabilityZones[].ZoneName")
	run(&vpcs, "describe-vpcs", "--query", "Vpcs[].VpcId")
	if len(groups) != 1 || len(zones) != 3 || len(vpcs) != 1 {
		t.Errorf("groups %v, zones %v, VPCs %v", groups, zones, vpcs)
	}
	var state string
	run(&state, "terminate-instances", "--instance-ids", id, "--query", "TerminatingInstances[0].CurrentState.Name")
	if state != "shutting-down" {
		t.Errorf("terminating: %s", state)
	}
	e.waitFor(t, id, types.InstanceStateNameTerminated)
}

// recorded is an address that passes requests on through the recorder. The Host header stays: it is signed.
func (e *endpoint) recorded(t *testing.T) string {
	t.Helper()
	target, err := url.Parse(e.url)
	if err != nil {
		t.Fatal(err)
	}
	proxy := httptest.NewServer(&httputil.ReverseProxy{
		Rewrite: func(r *httputil.ProxyRequest) {
			r.Out.URL.Scheme, r.Out.URL.Host, r.Out.Host = target.Scheme, target.Host, r.In.Host
		},
		Transport: e.recorder,
		ErrorHandler: func(w http.ResponseWriter, _ *http.Request, err error) {
			http.Error(w, err.Error(), http.StatusBadGateway)
		},
	})
	t.Cleanup(proxy.Close)
	return proxy.URL
}
