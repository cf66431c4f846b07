package ec2local

import (
	"fmt"

	"github.com/elotl/kip/v2/internal/ec2local/access"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
)

// administrators are the access keys that ec2local was started with. They are all of one user.
type administrators signature.Credentials

// Identify implements [access.Identities].
func (a administrators) Identify(accessKeyID, token string) (string, access.Principal, error) {
	secret, ok := a[accessKeyID]
	switch {
	case !ok:
		return "", access.Principal{}, fmt.Errorf("%w %q", signature.ErrUnknownKey, accessKeyID)
	case token != "":
		return "", access.Principal{}, fmt.Errorf("%w: the access key %q has none", signature.ErrToken, accessKeyID)
	}
	return secret, access.Principal{
		ARN: "arn:aws:iam::" + AccountID + ":user/administrator", UserID: "AIDAADMINISTRATOR000", Administrator: true,
	}, nil
}
