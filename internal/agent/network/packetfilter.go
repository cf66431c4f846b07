package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

// PacketFilter is what kube-proxy and host ports are made with, by the name
// that both of them use.
type PacketFilter string

// The packet filters of Linux.
const (
	NFTables PacketFilter = "nftables"
	IPTables PacketFilter = "iptables"
)

// FindPacketFilter returns nftables if this kernel has it and its program is in
// one of the directories; else iptables, and the error says what lacks. If there
// is neither, nftables it is: Services do not work then, and kube-proxy says so.
func FindPacketFilter(directories []string) (PacketFilter, error) {
	return choosePacketFilter(askForNFTables(), func(program string) bool {
		for _, dir := range directories {
			if info, err := os.Stat(filepath.Join(dir, program)); err == nil && info.Mode()&0o111 != 0 {
				return true
			}
		}
		return false
	})
}

func choosePacketFilter(kernel error, has func(program string) bool) (PacketFilter, error) {
	switch {
	case kernel == nil && has("nft"):
		return NFTables, nil
	case kernel == nil:
		kernel = errors.New("the machine image lacks the program nft")
	}
	if !has("iptables") {
		return NFTables, fmt.Errorf("%w, nor is there a program iptables", kernel)
	}
	return IPTables, kernel
}

// askForNFTables asks the kernel for the generation of its rules, which also has
// it load the module.
func askForNFTables() error {
	req := nl.NewNetlinkRequest(unix.NFNL_SUBSYS_NFTABLES<<8|unix.NFT_MSG_GETGEN, 0)
	req.AddData(&nl.Nfgenmsg{NfgenFamily: unix.AF_UNSPEC, Version: nl.NFNETLINK_V0})
	if _, err := req.Execute(unix.NETLINK_NETFILTER, 0); err != nil {
		return fmt.Errorf("the kernel has no nftables: %w", err)
	}
	return nil
}
