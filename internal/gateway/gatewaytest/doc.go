// Package gatewaytest has what a test of the gateway, or of its clients, puts
// around it: a State that the test sets, a Sink that remembers, and an API
// server that records whatever reaches it.
package gatewaytest
