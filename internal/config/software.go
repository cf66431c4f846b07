package config

import (
	"fmt"
	"slices"

	"github.com/elotl/kip/v2/internal/instancetype"
	"github.com/elotl/kip/v2/internal/userdata"
)

// machines are architectures in the words of uname.
var machines = map[string]string{instancetype.AMD64: "x86_64", instancetype.ARM64: "aarch64"}

// StockSoftware is the software in the words of user data.
func (c *Cells) StockSoftware() []userdata.Software {
	var out []userdata.Software
	for _, s := range c.Software {
		out = append(out, userdata.Software{Machine: machines[s.Architecture], URL: s.URL, SHA256: s.SHA256})
	}
	return out
}

// validateSoftware: without the image of its own, a cell of an architecture
// needs the software for it.
func (c *Cells) validateSoftware(bad func(key, format string, args ...any)) {
	has := map[string]bool{}
	for i, s := range c.StockSoftware() {
		key := fmt.Sprintf("cells.software[%d]", i)
		architecture := c.Software[i].Architecture
		if s.Machine == "" || has[architecture] {
			bad(key+".architecture", "%q is not possible: one for amd64, one for arm64", architecture)
		}
		has[architecture] = true
		if err := s.Validate(); err != nil {
			bad(key, "%v", err)
		}
	}
	for _, a := range c.Architectures {
		if len(c.Software) > 0 && !has[a] && slices.Contains([]string{instancetype.AMD64, instancetype.ARM64}, a) {
			bad("cells.software", "there is none for %s, which cells.architectures names", a)
		}
	}
}
