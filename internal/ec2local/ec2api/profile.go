package ec2api

import (
	"crypto/sha256"
	"encoding/base32"
)

// ProfileID makes up the ID of an instance profile from its ARN: AIPA and 16 characters.
func ProfileID(arn string) string {
	sum := sha256.Sum256([]byte(arn))
	return "AIPA" + base32.StdEncoding.EncodeToString(sum[:])[:16]
}
