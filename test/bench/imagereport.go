package main

import (
	"fmt"
	"time"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// The aims that docs/benchmarks/images.md is held against, for the largest image.
const (
	aimFaster    = 20
	aimReadShare = 10 // percent of the image's bytes
)

// wayNames say what a way is.
var wayNames = map[way]string{
	byNode: "plain containerd, ordinary node", byRegistry: "registry, new cell", byCache: "image cache, new cell",
}

func writeImages(d *document, env environment, o imageOptions, all []*measuredImage) {
	d.printf("# Starting from large images\n\nWritten by `make bench-images`. Each pod starts %d times in each way, by turns. An image has %d layers; %d %% of its bytes are small files (4 to 28 KiB, %d in a\n"+
		"directory), the rest files of up to %d MiB. The process reads %d %% of both: directories of small files whole, and large files in runs of\n"+
		"256 KiB, spread evenly. Half of the content can be compressed. MB are millions of bytes; p90 of few is the slowest.\n\n",
		o.rounds, imageLayers+1, smallShare, filesOfSmall, mostLarge>>20, o.percent)
	env.write(d)
	if o.cells == string(localcluster.CellsVM) {
		d.printf("Cells are virtual machines with Kip's own machine image and Linux 6.12, which mount the share with the kernel's NFS 4 client; the\n" +
			"server is NFS-Ganesha, a process of this machine. **Where KVM does not work they are emulated: a processor that is tens of times slower than\n" +
			"the one that serves them.** Ratios and bytes say something then, times do not.\n\n")
	} else {
		d.printf("Cells are sandboxes of this machine, whose kernel has no NFS: the share is a directory, and what the cell's snapshotter reads of it\n" +
			"stands for what would cross the network. Registry and share are on the same disk as the cells and mostly in this machine's page cache.\n\n")
	}
	if n := disturbedImages(all); n > 0 {
		d.printf("**%d starts began while something else kept the processors busy.**\n\n", n)
	}
	writeImageAims(d, all[len(all)-1])
	for _, i := range all {
		writeImage(d, i)
	}
	d.printf("*Pull* is what the kubelet says of it, *read* what the process takes for its part. *Whole* is from the scheduler's decision until the process has\n" +
		"read: a cell's launch, boot and enrolment are in it, which the ordinary node has behind it. *Received* is what the machine's interface got in all,\n" +
		"and *of the share* what its snapshotter read where the share is a directory. The registry's image is one that is not in the cache, and\n" +
		"the controller that would put it there is stopped.\n")
}

func writeImageAims(d *document, i *measuredImage) {
	pulled, cached := i.starts[byRegistry], i.starts[byCache]
	faster := ratio(percentile(untilRead(pulled), 50), percentile(untilRead(cached), 50))
	share := 100 * float64(percentile(each(cached, crossed), 50)) / float64(int64(i.megabytes)*1e6)
	verdict := func(met bool) string {
		if met {
			return "met"
		}
		return "missed"
	}
	d.printf("## Aims\n\n")
	d.table([]string{fmt.Sprintf("image of %d MB", i.megabytes), "aim", "measured", ""}, [][]string{
		{"pull and read, p50: how many times faster from the cache than from the registry", fmt.Sprintf("≥ %d", aimFaster), fmt.Sprintf("%.1f", faster), verdict(faster >= aimFaster)},
		{"bytes that the start needs, of the image's", fmt.Sprintf("≤ %d %%", aimReadShare), fmt.Sprintf("%.1f %%", share), verdict(share <= aimReadShare)},
	})
}

func writeImage(d *document, i *measuredImage) {
	d.printf("## An image of %d MB\n\n", i.megabytes)
	var rows [][]string
	base := percentile(untilRead(i.starts[byRegistry]), 50)
	for _, w := range []way{byNode, byRegistry, byCache} {
		s := i.starts[w]
		if len(s) == 0 {
			continue
		}
		row := []string{wayNames[w]}
		for _, times := range [][]time.Duration{
			each(s, func(s imageSample) time.Duration { return s.pull }), each(s, func(s imageSample) time.Duration { return s.read }),
			untilRead(s), each(s, func(s imageSample) time.Duration { return s.whole }),
		} {
			row = append(row, milliseconds(percentile(times, 50)), milliseconds(percentile(times, 90)))
		}
		rows = append(rows, append(row,
			fmt.Sprintf("%.1f", ratio(base, percentile(untilRead(s), 50))),
			millions(percentile(each(s, func(s imageSample) int64 { return s.network }), 50)),
			millions(percentile(each(s, func(s imageSample) int64 { return s.share }), 50))))
	}
	d.table([]string{"ms", "pull p50", "p90", "read p50", "p90", "pull + read p50", "p90", "whole p50", "p90", "times faster", "MB received", "MB of the share"}, rows)
	read := i.starts[byCache][0].result
	d.printf("The process reads %s MB in %d files. The image was in the cache %.1f s after its first pod was made.\n\n", millions(read.Bytes), read.Files, i.filled.Seconds())
}

func each[T any](samples []imageSample, of func(imageSample) T) []T {
	var all []T
	for _, s := range samples {
		all = append(all, of(s))
	}
	return all
}

// untilRead is what of a start depends on the image.
func untilRead(samples []imageSample) []time.Duration {
	return each(samples, func(s imageSample) time.Duration { return s.pull + s.read })
}

// crossed is what a start needed of the network, or would if its share were NFS.
func crossed(s imageSample) int64 { return s.network + s.share }

func ratio(a, b time.Duration) float64 {
	if b == 0 {
		return 0
	}
	return float64(a) / float64(b)
}

func millions(bytes int64) string { return fmt.Sprintf("%.1f", float64(bytes)/1e6) }

func disturbedImages(all []*measuredImage) int {
	n := 0
	for _, i := range all {
		for _, samples := range i.starts {
			for _, s := range samples {
				if !s.calm {
					n++
				}
			}
		}
	}
	return n
}
