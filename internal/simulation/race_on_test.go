//go:build race

package simulation

// someSeeds are what a plain go test runs. The race detector makes a seed ten
// times as long; make test runs more of them without it.
const someSeeds = 10
