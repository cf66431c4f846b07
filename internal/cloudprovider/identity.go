package cloudprovider

import (
	"crypto/sha256"
	"encoding/hex"
	"strings"
)

// maxControllerID leaves room, within the 255 characters that a security
// group's name may have, for what precedes the ID in it.
const maxControllerID = 200

// ControllerID names one controller for ever: the same cluster, namespace and
// virtual node give the same ID, so a Kip that lost everything finds its
// instances again. Two controllers never share one.
func ControllerID(cluster, namespace, node string) string {
	id := strings.Join([]string{cluster, namespace, node}, "/")
	if len(id) <= maxControllerID {
		return id
	}
	sum := sha256.Sum256([]byte(id))
	suffix := "/" + hex.EncodeToString(sum[:8])
	return strings.ToValidUTF8(id[:maxControllerID-len(suffix)], "") + suffix
}
