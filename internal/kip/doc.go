// Package kip assembles the program that runs in the cluster: it makes every
// part with what the part needs from outside, starts them in order and stops
// them together. There is no logic here but that.
package kip
