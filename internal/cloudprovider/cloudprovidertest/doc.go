// Package cloudprovidertest holds what tests of the seam need: a cloud in
// memory that behaves as badly as a script tells it to, and the suite that
// every implementation of cloudprovider.Provider must pass, the fake included.
package cloudprovidertest
