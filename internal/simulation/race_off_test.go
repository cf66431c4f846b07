//go:build !race

package simulation

const someSeeds = 100
