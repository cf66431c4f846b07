package aws

import (
	"context"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
)

// Stop implements cloudprovider.Stopper.
func (p *Provider) Stop(ctx context.Context, id string) error {
	if err := p.mine(ctx, id); err != nil {
		return err
	}
	_, err := p.ec2.StopInstances(ctx, &ec2.StopInstancesInput{InstanceIds: []string{id}})
	return wrap("ec2:StopInstances", err)
}

// Start implements cloudprovider.Stopper.
func (p *Provider) Start(ctx context.Context, id string) error {
	if err := p.mine(ctx, id); err != nil {
		return err
	}
	_, err := p.ec2.StartInstances(ctx, &ec2.StartInstancesInput{InstanceIds: []string{id}})
	return wrap("ec2:StartInstances", err)
}
