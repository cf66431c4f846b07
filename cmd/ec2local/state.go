package main

import (
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"

	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/ec2local/vpcnet"
)

// What is in the state directory, besides what the parts keep there themselves.
const (
	lockFile        = "lock"
	clusterFile     = "cluster.json"
	credentialsFile = "credentials.json"
	cloudDir        = "cloud"
	machinesDir     = "machines" // package container's
	computersDir    = "vms"      // package vm's
)

// cluster is what must not change between runs, and what destroy needs to know.
type cluster struct {
	Name   string       `json:"name"`
	VPC    netip.Prefix `json:"vpc"`
	Region string       `json:"region"`
	Zones  []string     `json:"zones"`
	Hollow bool         `json:"hollow,omitempty"` // there are no machines and no network
	// HollowCells: there are machines in ec2local's own process, and a route for them.
	HollowCells bool `json:"hollowCells,omitempty"`
}

// network is the cluster's network.
func (c cluster) network() vpcnet.Config { return vpcnet.Config{Cluster: c.Name, CIDR: c.VPC} }

// lock makes the state directory if need be and makes sure that only one ec2local works in it. The lock ends with the
// process.
func lock(state string) (*os.File, error) {
	if err := os.MkdirAll(state, 0o755); err != nil {
		return nil, fmt.Errorf("making the state directory: %w", err)
	}
	f, err := os.OpenFile(filepath.Join(state, lockFile), os.O_CREATE|os.O_RDWR|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return nil, fmt.Errorf("locking the state directory: %w", err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB); err != nil {
		_ = f.Close()
		return nil, fmt.Errorf("another ec2local works in %s: %w", state, err)
	}
	return f, nil
}

// readCluster answers false if no ec2local has served from the state directory yet.
func readCluster(state string) (c cluster, ok bool, err error) {
	raw, err := os.ReadFile(filepath.Join(state, clusterFile))
	if errors.Is(err, fs.ErrNotExist) {
		return c, false, nil
	}
	if err == nil {
		err = json.Unmarshal(raw, &c)
	}
	if err != nil {
		return c, false, fmt.Errorf("reading %s: %w", clusterFile, err)
	}
	return c, true, nil
}

// keepCluster writes the cluster down, before anything of it exists, or checks that it is the same as before.
func keepCluster(state string, c cluster) error {
	before, ok, err := readCluster(state)
	if err != nil {
		return err
	}
	if ok && (before.Name != c.Name || before.VPC != c.VPC || before.Region != c.Region) {
		return fmt.Errorf("%s belongs to cluster %s with VPC %s in %s", state, before.Name, before.VPC, before.Region)
	}
	if ok && (before.Hollow != c.Hollow || before.HollowCells != c.HollowCells) {
		return fmt.Errorf("%s: --hollow and --hollow-cells cannot be changed: instances that are there are of the other kind", state)
	}
	return writeJSON(filepath.Join(state, clusterFile), c)
}

// readCredentials reads the credentials, from a file of the state directory unless another is given. That one is made
// with a random key if it is missing.
func readCredentials(state, file string) (signature.Credentials, error) {
	if file != "" {
		return signature.ReadCredentials(file)
	}
	file = filepath.Join(state, credentialsFile)
	c, err := signature.ReadCredentials(file)
	if !errors.Is(err, fs.ErrNotExist) {
		return c, err
	}
	secret := make([]byte, 30)
	_, _ = rand.Read(secret) // never fails
	c = signature.Credentials{"AKIA" + rand.Text()[:16]: base64.StdEncoding.EncodeToString(secret)}
	return c, writeJSON(file, c)
}

// writeJSON replaces a file as a whole.
func writeJSON(file string, v any) error {
	raw, err := json.MarshalIndent(v, "", "  ")
	if err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := os.WriteFile(file+".tmp", append(raw, '\n'), 0o600); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	if err := os.Rename(file+".tmp", file); err != nil {
		return fmt.Errorf("writing %s: %w", file, err)
	}
	return nil
}
