package cloud

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// HostName is the name EC2 gives an instance by its primary address, such as ip-10-98-0-5.
func HostName(primary netip.Addr) string {
	return "ip-" + strings.ReplaceAll(primary.String(), ".", "-")
}

// PrivateDNSName is the host name with the region's domain.
func (c *Cloud) PrivateDNSName(addr netip.Addr) string {
	return HostName(addr) + "." + c.PrivateDomain()
}

// PrivateDomain is the domain of host names in the VPC.
func (c *Cloud) PrivateDomain() string {
	if c.cfg.Region == "us-east-1" {
		return "ec2.internal"
	}
	return c.cfg.Region + ".compute.internal"
}

// newID makes an ID such as i-0123456789abcdef0.
func (c *Cloud) newID(prefix string) (string, error) {
	var b [8]byte
	if _, err := io.ReadFull(c.cfg.Random, b[:]); err != nil {
		return "", fmt.Errorf("making an ID: %w", err)
	}
	return prefix + "-0" + hex.EncodeToString(b[:]), nil
}

// macOf derives an interface's hardware address from its ID: locally administered, and the same for ever.
func macOf(interfaceID string) string {
	sum := sha256.Sum256([]byte(interfaceID))
	return fmt.Sprintf("02:%02x:%02x:%02x:%02x:%02x", sum[0], sum[1], sum[2], sum[3], sum[4])
}
