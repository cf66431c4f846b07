package network

import (
	"errors"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

func TestChoosePacketFilter(t *testing.T) {
	missing := errors.New("the kernel has no nftables: no such file or directory")
	for name, tc := range map[string]struct {
		reason   string
		kernel   error
		programs []string
		want     PacketFilter
		says     string
	}{
		"Both":         {reason: "nftables where it can be", programs: []string{"nft", "iptables"}, want: NFTables},
		"Only":         {reason: "iptables is not needed", programs: []string{"nft"}, want: NFTables},
		"OldKernel":    {reason: "the program alone does nothing", kernel: missing, programs: []string{"nft", "iptables"}, want: IPTables, says: "the kernel has no nftables"},
		"NoProgram":    {reason: "kube-proxy runs nft", programs: []string{"iptables"}, want: IPTables, says: "lacks the program nft"},
		"Neither":      {reason: "kube-proxy says what it needs", want: NFTables, says: "nor is there a program iptables"},
		"NothingAtAll": {reason: "the same", kernel: missing, want: NFTables, says: "nor is there a program iptables"},
	} {
		got, err := choosePacketFilter(tc.kernel, func(p string) bool { return slices.Contains(tc.programs, p) })
		if got != tc.want || (err == nil) != (tc.says == "") || (err != nil && !strings.Contains(err.Error(), tc.says)) {
			t.Errorf("%s (%s): %s, %v", name, tc.reason, got, err)
		}
	}
}

// The kernel's answer is that of the program which everybody uses.
func TestAskForNFTables(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	nft, err := exec.LookPath("nft")
	if err != nil {
		t.Skip("needs nft")
	}
	works := exec.Command(nft, "list", "tables").Run() == nil
	if err := askForNFTables(); (err == nil) != works {
		t.Errorf("nft works: %t; asked, the kernel says %v", works, err)
	}
}
