package aws

import (
	"context"
	"encoding/base64"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/ec2"

	"github.com/elotl/kip/v2/internal/cloudprovider"
)

// Console implements cloudprovider.ConsoleReader. EC2 has what is on the console
// now for Nitro instances only; of others it has what it looked at last.
func (p *Provider) Console(ctx context.Context, id string) (string, error) {
	ctx = optional(ctx)
	in := &ec2.GetConsoleOutputInput{InstanceId: aws.String(id), Latest: aws.Bool(true)}
	out, err := p.ec2.GetConsoleOutput(ctx, in)
	if cloudprovider.KindOf(wrap("ec2:GetConsoleOutput", err)) == cloudprovider.Unsupported {
		in.Latest = nil
		out, err = p.ec2.GetConsoleOutput(ctx, in)
	}
	if err != nil {
		return "", wrap("ec2:GetConsoleOutput", err)
	}
	text, err := base64.StdEncoding.DecodeString(aws.ToString(out.Output))
	if err != nil {
		return "", wrap("ec2:GetConsoleOutput", fmt.Errorf("reading the console of %s: %w", id, err))
	}
	return string(text), nil
}
