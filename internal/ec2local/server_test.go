package ec2local

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/ec2"
	"github.com/aws/smithy-go"
	"k8s.io/utils/clock"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/iam"
	"github.com/elotl/kip/v2/internal/ec2local/machine/machinetest"
	"github.com/elotl/kip/v2/internal/ec2local/modeltest"
	"github.com/elotl/kip/v2/internal/ec2local/signature"
	"github.com/elotl/kip/v2/internal/instancetype"
)

const (
	testKey    = "AKIATEST"
	testSecret = "secret"
	testRegion = "us-west-2"
)

// endpoint is a running ec2local whose machines exist in memory only, with a client of AWS's SDK.
type endpoint struct {
	*ec2.Client
	url        string
	server     *Server
	config     Config
	hypervisor *machinetest.Hypervisor
	recorder   *modeltest.Recorder
	client     *http.Client
	stop       func()
}

// start makes an ec2local with one image. change may adjust its configuration.
func start(t *testing.T, change func(*Config)) *endpoint {
	t.Helper()
	catalogue, err := instancetype.Embedded()
	if err != nil {
		t.Fatal(err)
	}
	market, err := CatalogueSpotMarket(catalogue, testRegion)
	if err != nil {
		t.Fatal(err)
	}
	hypervisor := machinetest.New()
	cfg := Config{
		Dir: filepath.Join(t.TempDir(), "state"), Images: t.TempDir(), Region: testRegion,
		Zones: []string{"us-west-2a", "us-west-2b", "us-west-2c"}, VPC: netip.MustParsePrefix("10.98.0.0/16"),
		Credentials: signature.Credentials{testKey: testSecret}, Types: CatalogueTypes(catalogue), Hypervisor: hypervisor, SpotMarket: market,
		Delays: cloud.Delays{Retention: time.Hour}, Clock: clock.RealClock{}, Log: slog.New(slog.DiscardHandler),
	}
	if change != nil {
		change(&cfg)
	}
	addImage(t, cfg.Images, "kip-cell", `{"name": "kip-cell", "description": "a cell", "architecture": "x86_64",
		"creationDate": "2026-01-02T03:04:05Z", "ownerId": "123456789012", "tags": {"version": "1"}}`)
	addImage(t, cfg.Images, "other-arm", `{"name": "other", "architecture": "arm64", "ownerId": "602401143452"}`)
	e := &endpoint{config: cfg, hypervisor: hypervisor}
	e.recorder = modeltest.NewRecorder(t, http.DefaultTransport.(*http.Transport).Clone())
	e.client = &http.Client{Transport: e.recorder}
	e.restart(t)
	t.Cleanup(func() { e.stop() })
	e.addProfile(t, "cells")
	return e
}

// restart runs the endpoint anew, with the machines and the state of before.
func (e *endpoint) restart(t *testing.T) {
	t.Helper()
	if e.stop != nil {
		e.stop()
	}
	server, err := New(e.config)
	if err != nil {
		t.Fatal(err)
	}
	e.server = server
	api, metadata := listen(t), listen(t)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- server.Run(ctx, metadata, api) }()
	e.stop = func() {
		cancel()
		if err := <-ended; err != nil {
			t.Errorf("Run: %v", err)
		}
		e.stop = func() {}
	}
	e.url = "http://" + api.Addr().String()
	e.Client = e.sdk(testKey, testSecret)
}

// addProfile makes an instance profile with a role of the same name, which EC2 may assume and which may do nothing.
func (e *endpoint) addProfile(t *testing.T, name string) {
	t.Helper()
	trust := `{"Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}]}`
	_, err := e.server.iam.CreateRole(iam.Role{Name: name, Trust: trust})
	if err == nil {
		_, err = e.server.iam.CreateProfile(iam.Profile{Name: name})
	}
	if err == nil {
		err = e.server.iam.AddRole(name, name)
	}
	if err != nil {
		t.Fatal(err)
	}
}

// sdk makes a client that does not repeat requests.
func (e *endpoint) sdk(key, secret string) *ec2.Client {
	return ec2.New(ec2.Options{
		Region: testRegion, BaseEndpoint: aws.String(e.url), HTTPClient: e.client, Retryer: aws.NopRetryer{},
		Credentials: credentials.NewStaticCredentialsProvider(key, secret, ""),
	})
}

func listen(t *testing.T) net.Listener {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func addImage(t *testing.T, images, name, content string) {
	t.Helper()
	dir := filepath.Join(images, name)
	if err := os.MkdirAll(filepath.Join(dir, "rootfs"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "image.json"), []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// code is the EC2 code of an error, "" for none.
func code(err error) string {
	var api smithy.APIError
	switch {
	case err == nil:
		return ""
	case errors.As(err, &api):
		return api.ErrorCode()
	}
	return err.Error()
}

// must returns v unless there was an error.
func must[T any](v T, err error) func(*testing.T) T {
	return func(t *testing.T) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return v
	}
}

// eventually waits until done answers true.
func eventually(t *testing.T, what string, done func() bool) {
	t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !done(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not in time: %s", what)
		}
	}
}
