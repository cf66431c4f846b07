//go:build !race

package provider

const raced = false
