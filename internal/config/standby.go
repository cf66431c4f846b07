package config

import (
	"fmt"
	"strings"
)

const (
	// maxStandby keeps a slip of the keyboard from launching thousands of
	// instances for nobody.
	maxStandby = 500
	// maxTolerance is in percent; ten times the price is no tolerance any more.
	maxTolerance = 1000
)

func (c *Cells) validateStandby(bad func(key, format string, args ...any)) {
	type kind struct {
		instanceType string
		spot         bool
		stopped      bool
	}
	seen := map[kind]bool{}
	for i, s := range c.StandbyCells {
		key := fmt.Sprintf("cells.standbyCells[%d]", i)
		if s.InstanceType == "" || strings.ContainsAny(s.InstanceType, "*?!, ") {
			bad(key+".instanceType", "%q is not the name of one instance type, such as t3.small", s.InstanceType)
		}
		if s.Count < 0 || s.Count > maxStandby {
			bad(key+".count", "%d is not between 0 and %d", s.Count, maxStandby)
		}
		if s.Spot && s.Stopped {
			bad(key+".stopped", "spot instances of cells cannot be stopped: EC2 takes them once only")
		}
		k := kind{s.InstanceType, s.Spot, s.Stopped}
		if seen[k] {
			bad(key, "%s is there twice: give one count", s.InstanceType)
		}
		seen[k] = true
	}
	if t := c.StandbyPriceTolerance; t < 0 || t > maxTolerance {
		bad("cells.standbyPriceTolerance", "%d is not between 0 and %d percent", t, maxTolerance)
	}
}
