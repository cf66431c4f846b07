package main

import (
	"fmt"
	"slices"
	"time"
)

// The aims that docs/benchmarks/start.md is held against.
const (
	aimSent    = 250 * time.Millisecond
	aimNoticed = 250 * time.Millisecond
	aimStarted = time.Second
	aimWhole   = 4 * time.Second

	aimStandby      = 500 * time.Millisecond
	aimStandbyWorst = time.Second
)

func writeStart(d *document, env environment, o startOptions, onCells, onNode, onStandby, inBurst []sample) {
	d.printf("# How long pods take to start\n\nWritten by `make bench-start`. All times are in milliseconds. Percentiles are nearest-rank: of %d pods, p99 is the slowest.\n\n", max(o.pods, o.standby))
	env.write(d)
	if n := disturbed(onCells) + disturbed(onNode) + disturbed(onStandby) + disturbed(inBurst); n > 0 {
		d.printf("**%d of %d starts began while something else kept the processors busy, so these figures are worse than Kip's own.**\n\n",
			n, len(onCells)+len(onNode)+len(onStandby)+len(inBurst))
	}
	writeAims(d, o, onCells, onStandby, inBurst)

	if len(onCells) > 0 {
		d.printf("## One pod at a time on a cold cell (%d pods)\n\n", len(onCells))
		d.printf("Every pod is launched on an instance of its own: ec2local makes a sandbox, in which agent, containerd and kubelet start from\n" +
			"nothing. The image is in the local registry; a cold cell has no image, so its pull is part of the start.\n\n")
		writeSteps(d, onCells, []step{bound, written, sent, launched, listening, agentReached, enrolled, connected, sawPod, sandbox, started, running, ready})
		d.printf("Beside enrolment, in the cell:\n\n")
		writeSteps(d, onCells, []step{listening, kubeletStarted, kubeletAsked, sawPod})

		d.printf("Two waits in there are the stock kubelet's own. When it starts, it looks whether it has its Node, and if it has not,\n" +
			"looks again after 1 s (WaitForAPIServerSyncPeriod): that is nearly all the time from its first request until it sees the\n" +
			"pod. And it looks whether a pod's volumes are mounted at once and then after 300 ms (podAttachAndMountRetryInterval):\n" +
			"that is nearly all the time until the sandbox, there and on the ordinary node.\n\n")

		d.printf("## The same pods on an ordinary node (%d pods)\n\n", len(onNode))
		d.printf("Stock containerd and kubelet on another instance of the same machine, which is up and ready and has both images; started in\n" +
			"turn with the pods above. Its kubelet speaks to the API server itself.\n\n")
		writeSteps(d, onNode, []step{bound, sawPod, sandbox, started, running, ready})
		writeComparison(d, onCells, onNode)
	}
	if len(onStandby) > 0 {
		d.printf("## On standby cells (%d pods)\n\n", len(onStandby))
		d.printf("One standby cell waits, and the pod takes it; ec2local boots the one that is launched in its place %s later. The pod's image is\n"+
			"the sandbox's, which every cell has, so nothing is pulled. The stock kubelet's wait of 300 ms for volumes is in there: the pod has\n"+
			"the token of its service account.\n\n", bootDelay)
		writeSteps(d, onStandby, []step{bound, taken, sawPod, sandbox, started, running, ready})
	}

	if len(inBurst) > 0 {
		d.printf("## A burst: %d pods at %g per second\n\n", len(inBurst), o.rate)
		d.printf("ec2local answers RunInstances at once and boots each instance %s later, when the last was launched. Their agents are real\n"+
			"and enrol; kubelet and containerd are replaced by programs that do nothing, so that Kip is measured and not how many\n"+
			"kubelets a few processors can start side by side. API server, scheduler, etcd and ec2local share the processors with Kip.\n\n", bootDelay)
		writeSteps(d, inBurst, []step{bound, written, sent, launched, listening, agentReached, enrolled, connected})
	}
}

func writeAims(d *document, o startOptions, onCells, onStandby, inBurst []sample) {
	row := func(what, aim string, times []time.Duration, p float64, limit time.Duration) []string {
		if len(times) == 0 {
			return []string{what, aim, "not measured", ""}
		}
		got := percentile(times, p)
		verdict := "met"
		if got > limit {
			verdict = "missed"
		}
		return []string{what, aim, milliseconds(got), verdict}
	}
	d.printf("## Aims\n\n")
	d.table([]string{"", "aim", "measured", ""}, [][]string{
		row(fmt.Sprintf("bound → RunInstances sent, p99, %g pods/s", o.rate), "< 250", between(inBurst, bound, sent), 99, aimSent),
		row("agent listens → noticed, p99, one at a time", "< 250", between(onCells, listening, agentReached), 99, aimNoticed),
		row(fmt.Sprintf("agent listens → noticed, p99, %g pods/s", o.rate), "< 250", between(inBurst, listening, agentReached), 99, aimNoticed),
		row("kubelet sees the pod → container started, p50, pull included", "< 1000", between(onCells, sawPod, started), 50, aimStarted),
		row("whole cold start, bound → Ready, p50", "< 4000", between(onCells, bound, ready), 50, aimWhole),
		row("standby cell, image there, bound → container started, p50", "< 500", between(onStandby, bound, started), 50, aimStandby),
		row("standby cell, image there, bound → container started, p99", "< 1000", between(onStandby, bound, started), 99, aimStandbyWorst),
	})
}

// writeSteps shows when each step was reached after the first, and after the
// step above.
func writeSteps(d *document, samples []sample, steps []step) {
	var rows [][]string
	for i, at := range steps {
		row := []string{meaning[at]}
		if i == 0 {
			row = append(row, "0", "0", "0", "", "", "")
		} else {
			row = append(row, spread(between(samples, steps[0], at))...)
			row = append(row, spread(between(samples, steps[i-1], at))...)
		}
		rows = append(rows, row)
	}
	d.table([]string{"step", "p50", "p90", "p99", "from the step above: p50", "p90", "p99"}, rows)
}

func writeComparison(d *document, onCells, onNode []sample) {
	d.printf("### Beside each other\n\n")
	var rows [][]string
	row := func(what string, cell, node []time.Duration) {
		c, n := percentile(cell, 50), percentile(node, 50)
		ratio := ""
		if n > 10*time.Millisecond { // a ratio to nothing says nothing
			ratio = fmt.Sprintf("%.1f", float64(c)/float64(n))
		}
		rows = append(rows, slices.Concat([]string{what}, spread(cell), spread(node), []string{ratio}))
	}
	row("bound → kubelet sees the pod", between(onCells, bound, sawPod), between(onNode, bound, sawPod))
	row("kubelet sees the pod → container started", between(onCells, sawPod, started), between(onNode, sawPod, started))
	row("  of that, pull of the pod's image", pulls(onCells), pulls(onNode))
	row("  without the pull", withoutPull(onCells, sawPod, started), withoutPull(onNode, sawPod, started))
	row("container started → Ready in the API", between(onCells, started, ready), between(onNode, started, ready))
	row("bound → container started", between(onCells, bound, started), between(onNode, bound, started))
	row("bound → Ready in the API", between(onCells, bound, ready), between(onNode, bound, ready))
	d.table([]string{"", "cell p50", "p90", "p99", "node p50", "p90", "p99", "ratio of p50"}, rows)
}

// disturbed is how many of them did not begin on a calm machine.
func disturbed(samples []sample) (n int) {
	for _, s := range samples {
		if !s.calm {
			n++
		}
	}
	return n
}
