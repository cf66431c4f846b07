package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/aws-sdk-go-v2/service/ec2/types"
	"github.com/aws/aws-sdk-go-v2/service/ecr"

	"github.com/elotl/kip/v2/internal/ec2local/fault"
	"github.com/elotl/kip/v2/internal/localcluster"
)

const region = "us-west-2"

// cloud looks at ec2local as an owner of the account would, past Kip.
type cloud struct {
	url string
	api *ec2.Client
	ecr *ecr.Client
}

// newCloud finds ec2local's port and a key in the cluster's directory.
func newCloud(context.Context) (*cloud, error) {
	var settings struct {
		Port   int    `json:"ec2Port"`
		Key    string `json:"accessKeyID"`
		Secret string `json:"secretAccessKey"`
	}
	data, err := os.ReadFile(filepath.Join(shared.Dir, "cluster.json"))
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, &settings); err != nil {
		return nil, err
	}
	c := &cloud{url: fmt.Sprintf("http://127.0.0.1:%d", settings.Port)}
	owner := credentials.NewStaticCredentialsProvider(settings.Key, settings.Secret, "")
	c.api = ec2.New(ec2.Options{Region: region, BaseEndpoint: &c.url, Credentials: owner})
	c.ecr = ecr.New(ecr.Options{Region: region, BaseEndpoint: &c.url, Credentials: owner})
	return c, nil
}

// instances are all but the ordinary node's, by ID, in any state.
func (c *cloud) instances(ctx context.Context) (map[string]types.Instance, error) {
	found := map[string]types.Instance{}
	pages := ec2.NewDescribeInstancesPaginator(c.api, &ec2.DescribeInstancesInput{})
	for pages.HasMorePages() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return nil, err
		}
		for _, r := range page.Reservations {
			for _, i := range r.Instances {
				// By its name, not by Kip's tags: an instance that Kip forgot to tag
				// counts.
				if !slices.ContainsFunc(i.Tags, func(t types.Tag) bool { return *t.Key == "Name" && *t.Value == localcluster.OrdinaryNode }) {
					found[*i.InstanceId] = i
				}
			}
		}
	}
	return found, nil
}

// living are the IDs of instances that cost money.
func (c *cloud) living(ctx context.Context) (map[string]types.Instance, error) {
	found, err := c.instances(ctx)
	for id, i := range found {
		if i.State.Name == types.InstanceStateNameTerminated || i.State.Name == types.InstanceStateNameShuttingDown {
			delete(found, id)
		}
	}
	return found, err
}

// state of one instance.
func (c *cloud) state(ctx context.Context, id string) (types.InstanceStateName, error) {
	out, err := c.api.DescribeInstances(ctx, &ec2.DescribeInstancesInput{InstanceIds: []string{id}})
	if err != nil {
		return "", err
	}
	return out.Reservations[0].Instances[0].State.Name, nil
}

// tag returns the value of an instance's tag.
func tag(i types.Instance, key string) string {
	for _, t := range i.Tags {
		if aws.ToString(t.Key) == key {
			return aws.ToString(t.Value)
		}
	}
	return ""
}

// command asks something of ec2local's own interface. in and out are JSON, and
// may be nil.
func (c *cloud) command(ctx context.Context, method, path string, in, out any) error {
	body, err := json.Marshal(in)
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(ctx, method, c.url+"/_ec2local/"+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode/100 != 2 {
		return fmt.Errorf("ec2local answers %s to %s %s", resp.Status, method, path)
	}
	if out == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(out)
}

// setFaults replaces the script of what goes wrong with launches.
func (c *cloud) setFaults(ctx context.Context, rules ...fault.Rule) error {
	if rules == nil {
		rules = []fault.Rule{}
	}
	return c.command(ctx, http.MethodPut, "faults", rules, nil)
}

// denial is a call of Kip's role that its policy does not allow.
type denial struct{ Action, Resource, Principal string }

// calls are how often Kip's role was allowed each action, and what it was denied.
func (c *cloud) calls(ctx context.Context) (allowed map[string]int, denied []denial, err error) {
	var answer struct {
		Calls []struct {
			Action, Principal string
			Allowed           int
		}
		Denied []denial
	}
	if err := c.command(ctx, http.MethodGet, "calls", nil, &answer); err != nil {
		return nil, nil, err
	}
	allowed = map[string]int{}
	for _, n := range answer.Calls {
		if strings.Contains(n.Principal, "assumed-role/kip-provider") {
			allowed[n.Action] += n.Allowed
		}
	}
	for _, d := range answer.Denied {
		if strings.Contains(d.Principal, "assumed-role/kip-provider") {
			denied = append(denied, d)
		}
	}
	return allowed, denied, nil
}
