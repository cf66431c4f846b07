// Package install holds what ships for installing Kip (kustomize, its scripts,
// IAM policies, the page in docs) against the code and against each other. It
// needs no cluster.
package install
