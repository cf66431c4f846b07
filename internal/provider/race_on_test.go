//go:build race

package provider

// raced: under the race detector the largest simulations run at a fraction of
// their size. They take ten times as long there, and find no other races than
// small ones do; make test runs them whole without it.
const raced = true
