package explain

import (
	"cmp"
	"fmt"
	"io"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"

	"github.com/elotl/kip/v2/internal/instancetype"
)

// writeTable writes for people.
func writeTable(out io.Writer, r Report, s settings) error {
	var b strings.Builder
	for i, p := range r.Pods {
		if i > 0 {
			b.WriteString("\n")
		}
		writePod(&b, r.Region, p, s)
	}
	_, err := io.WriteString(out, b.String())
	return err
}

func writePod(b *strings.Builder, region string, p PodReport, s settings) {
	fmt.Fprintf(b, "%s %s (%s, document %d) in %s\n\n", p.Source.Kind, p.Source.Name, p.Source.File, p.Source.Document, region)
	if p.Considered == 0 {
		fmt.Fprintf(b, "  Refused: %s\n", strings.ReplaceAll(p.Error, "\n", "\n           "))
		return
	}
	fmt.Fprintf(b, "  Requests  %s\n", request(p))
	if p.Chosen == nil {
		fmt.Fprintf(b, "  Launches  nothing: %s\n", p.Error)
	} else {
		c := p.Chosen
		fmt.Fprintf(b, "  Launches  %s, %s, %s%s\n", c.InstanceType, c.CapacityType, c.Architecture, inZones(c.Zones))
		fmt.Fprintf(b, "            %s USD per hour%s: %s\n", usd(c.HourlyUSD), estimated(c.Cost), bill(c.Cost, p, s))
		fmt.Fprintf(b, "  Why       %s\n", why(p, s))
	}
	if len(p.Candidates) > 0 {
		b.WriteString("\n  Next, should there be no capacity\n")
		writeCandidates(b, p.Candidates)
	}
	if len(p.Types) > 0 {
		b.WriteString("\n  Asked about\n")
		for _, t := range p.Types {
			writeType(b, t)
		}
	}
	if len(p.RuledOut) > 0 {
		fmt.Fprintf(b, "\n  Ruled out, of %d instance types in %s\n", p.Considered, region)
		for _, o := range p.RuledOut {
			fmt.Fprintf(b, "  %6d  %s", o.Count, o.Message)
			if len(o.InstanceTypes) > 0 {
				fmt.Fprintf(b, ": %s", strings.Join(o.InstanceTypes, ", "))
			}
			b.WriteString("\n")
		}
	}
}

// request is one line.
func request(p PodReport) string {
	mark := func(name string) string {
		if slices.Contains(p.Defaulted, name) {
			return " (the pod names none)"
		}
		return ""
	}
	parts := []string{
		"cpu " + p.Request.CPU.String() + mark("cpu"),
		"memory " + p.Request.Memory.String() + mark("memory"),
	}
	add := func(name string, values []string) {
		if len(values) > 0 {
			parts = append(parts, name+" "+strings.Join(values, " or "))
		}
	}
	if p.Request.GPUs > 0 {
		parts = append(parts, fmt.Sprintf("%s %d", instancetype.ResourceGPU, p.Request.GPUs))
	}
	add("GPU", p.Request.GPUModels)
	add("architecture", p.Request.Architectures)
	add("zone", p.Request.Zones)
	add("type", p.Request.InstanceTypes)
	for _, ct := range p.Request.CapacityTypes {
		parts = append(parts, string(ct))
	}
	return strings.Join(parts, ", ")
}

// why is the chosen one's room.
func why(p PodReport, s settings) string {
	c := p.Chosen
	t, _ := s.catalogue.Type(c.InstanceType)
	text := fmt.Sprintf("the cheapest of %d that fit. It has %d vCPUs; of its %d MiB the kernel keeps %d and the cell needs %d,\n"+
		"            which leaves %d for the pod.",
		p.Fitting, c.VCPUs, c.MemoryMiB, c.MemoryMiB-c.PodMemoryMiB-instancetype.CellMemoryMiB, instancetype.CellMemoryMiB, c.PodMemoryMiB)
	if t.Burstable {
		text += fmt.Sprintf(" Its CPU baseline is %s vCPUs", strconv.FormatFloat(t.BaselineVCPUs, 'f', -1, 64))
		if c.Cost.Surplus > 0 {
			text += "; what the pod requests above it is paid as surplus credits"
		}
		text += "."
	}
	return text
}

// bill is the price by its parts.
func bill(c instancetype.Cost, p PodReport, s settings) string {
	parts := []string{"instance " + usd(c.Instance)}
	if c.Surplus > 0 {
		parts = append(parts, "surplus CPU credits "+usd(c.Surplus))
	}
	gib := cmp.Or(p.Request.VolumeGiB, s.defaults.VolumeGiB, instancetype.DefaultVolumeGiB)
	parts = append(parts, fmt.Sprintf("volume of %d GiB %s", gib, usd(c.Volume)))
	if c.PublicIPv4 > 0 {
		parts = append(parts, "public address "+usd(c.PublicIPv4))
	}
	return strings.Join(parts, ", ")
}

func estimated(c instancetype.Cost) string {
	if c.Estimated {
		return " (estimated)"
	}
	return ""
}

func usd(v float64) string { return strconv.FormatFloat(v, 'f', -1, 64) }

func inZones(zones []string) string {
	if len(zones) == 1 && zones[0] == "" {
		return ", in any zone"
	}
	return ", in " + strings.Join(zones, " or ")
}

func writeCandidates(b *strings.Builder, candidates []Candidate) {
	w := tabwriter.NewWriter(b, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "    TYPE\tCAPACITY\tARCH\tVCPUS\tMEMORY\tFOR POD\tUSD/HOUR\tZONES")
	for _, c := range candidates {
		fmt.Fprintf(w, "    %s\t%s\t%s\t%d\t%d MiB\t%d MiB\t%s%s\t%s\n", c.InstanceType, c.CapacityType, c.Architecture,
			c.VCPUs, c.MemoryMiB, c.PodMemoryMiB, usd(c.HourlyUSD), estimated(c.Cost), strings.Join(c.Zones, ","))
	}
	w.Flush() // to a strings.Builder, which does not fail
}

func writeType(b *strings.Builder, t TypeReport) {
	switch {
	case t.Error != "":
		fmt.Fprintf(b, "    %s\n", t.Error)
	case t.Fits:
		for _, c := range t.Offers {
			fmt.Fprintf(b, "    %s: fits, %s, %s USD per hour%s\n", t.InstanceType, c.CapacityType, usd(c.HourlyUSD), estimated(c.Cost))
		}
	default:
		fmt.Fprintf(b, "    %s: %s\n", t.InstanceType, strings.Join(t.Messages, "; "))
	}
}
