// Command ami makes a machine image of EC2's of the disk that `make cell-image` built, and prints its ID. Credentials and
// region are those that the AWS CLI would use, and so is an endpoint (AWS_ENDPOINT_URL).
//
//	ami -disk FILE [-version VERSION] [-encrypted] [-kms-key ARN] [-tag KEY=VALUE]…
//
// A second run with the same disk finds the first one's image, or goes on where it was interrupted.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"strings"
	"syscall"

	"github.com/elotl/kip/v2/internal/cloudprovider/aws/ami"
)

func main() {
	c := ami.Config{
		Tags:     map[string]string{},
		Progress: func(what string) { fmt.Fprintln(os.Stderr, "ami:", what) },
	}
	flag.StringVar(&c.Disk, "disk", "", "the raw disk")
	flag.StringVar(&c.Name, "name", "kip-cell", "what the image's name begins with")
	flag.StringVar(&c.Version, "version", "", "what follows in the image's name, before the disk's hash")
	flag.StringVar(&c.Region, "region", "", "the region, if not that of AWS_REGION or the profile")
	flag.BoolVar(&c.Encrypted, "encrypted", false, "encrypt the image; some accounts always do")
	flag.StringVar(&c.KMSKeyARN, "kms-key", "", "the ARN of the key to encrypt it with, instead of the account's for EBS")
	flag.Func("tag", "a `KEY=VALUE` for the image and its snapshot; may be repeated", func(tag string) error {
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" {
			return errors.New("not of the form KEY=VALUE")
		}
		c.Tags[key] = value
		return nil
	})
	flag.Parse()
	c.Encrypted = c.Encrypted || c.KMSKeyARN != ""
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	id, err := ami.Register(ctx, c)
	if ctx.Err() != nil {
		err = errors.New("interrupted; another run within the hour goes on")
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "ami:", err)
		stop()
		os.Exit(1)
	}
	fmt.Println(id)
}
