// Command bench measures what Kip costs in time and memory, on a whole cluster
// that it makes on this machine and removes again.
//
//	go run ./test/bench start      how long pods take to start, step by step
//	go run ./test/bench overhead   the memory a cell needs beside its pod
//	go run ./test/bench scale      what Kip needs for thousands of cells
//
// Both print a report in Markdown and write it to docs/benchmarks. A slow
// machine gives slow figures, so nothing is ever passed or failed; the aims
// stand beside what was measured. It needs root and the programs that
// make tools build makes.
//
// All times are of this machine's one clock. They come from whoever knows them
// best: Kip's log, the agent's own timeline, the container runtime, the file
// system, and a watch on the API server for what only it can tell.
package main
