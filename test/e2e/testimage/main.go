// Command testimage is the program of the test image: what busybox cannot do.
package main

import (
	"bufio"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"
)

const usage = `usage: testimage serve [-state DIR] | print BYTES | get URL

serve   answers health checks: http on 8080, tcp on 9090, grpc on 9091; each is
        healthy when the file http, tcp or grpc exists in DIR
print   writes numbered lines of exactly BYTES bytes in all
get     prints the answer to a request; with the pod's own service account, if it
        is for HTTPS`

func main() {
	if err := run(os.Args[1:]); err != nil {
		fmt.Fprintln(os.Stderr, "testimage:", err)
		os.Exit(1)
	}
}

func run(args []string) error {
	if len(args) == 0 {
		return errors.New(usage)
	}
	switch args[0] {
	case "serve":
		flags := flag.NewFlagSet("serve", flag.ContinueOnError)
		state := flags.String("state", "/state", "directory of the files that say what is healthy")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		return serve(*state)
	case "print":
		if len(args) != 2 {
			return errors.New(usage)
		}
		n, err := strconv.Atoi(args[1])
		if err != nil {
			return err
		}
		return write(n)
	case "get":
		if len(args) != 2 {
			return errors.New(usage)
		}
		return get(args[1])
	}
	return errors.New(usage)
}

// get prints the answer to a GET. Servers with TLS are trusted by the cluster's
// CA, and told the pod's token.
func get(url string) error {
	client := &http.Client{Timeout: 10 * time.Second}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if req.URL.Scheme == "https" {
		const account = "/var/run/secrets/kubernetes.io/serviceaccount/"
		ca, err := os.ReadFile(account + "ca.crt")
		if err != nil {
			return err
		}
		token, err := os.ReadFile(account + "token")
		if err != nil {
			return err
		}
		roots := x509.NewCertPool()
		roots.AppendCertsFromPEM(ca)
		client.Transport = &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}}
		req.Header.Set("Authorization", "Bearer "+string(token))
	}
	resp, err := client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	_, err = io.Copy(os.Stdout, resp.Body)
	return err
}

// write prints numbered lines until exactly n bytes are out.
func write(n int) error {
	w := bufio.NewWriterSize(os.Stdout, 1<<16)
	for i := 0; n > 0; i++ {
		line := fmt.Sprintf("%08d %s\n", i, strings.Repeat("x", 54))
		if len(line) > n {
			line = line[:n-1] + "\n"
		}
		n -= len(line)
		if _, err := w.WriteString(line); err != nil {
			return err
		}
	}
	return w.Flush()
}

func serve(state string) error {
	healthy := func(kind string) bool {
		_, err := os.Stat(filepath.Join(state, kind))
		return !errors.Is(err, fs.ErrNotExist)
	}
	failed := make(chan error, 3)

	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !healthy("http") {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprintln(w, "hello from", name)
	})
	go func() {
		server := &http.Server{Addr: ":8080", ReadHeaderTimeout: 10 * time.Second}
		failed <- server.ListenAndServe()
	}()

	checks := health.NewServer()
	checks.SetServingStatus("", healthpb.HealthCheckResponse_NOT_SERVING)
	go func() {
		listener, err := net.Listen("tcp", ":9091")
		if err != nil {
			failed <- err
			return
		}
		server := grpc.NewServer()
		healthpb.RegisterHealthServer(server, checks)
		failed <- server.Serve(listener)
	}()

	go func() {
		for !healthy("tcp") {
			time.Sleep(100 * time.Millisecond)
		}
		listener, err := net.Listen("tcp", ":9090")
		for err == nil {
			var conn net.Conn
			if conn, err = listener.Accept(); err == nil {
				_ = conn.Close()
			}
		}
		failed <- err
	}()

	for {
		select {
		case err := <-failed:
			return err
		case <-time.After(100 * time.Millisecond):
			if healthy("grpc") {
				checks.SetServingStatus("", healthpb.HealthCheckResponse_SERVING)
			}
		}
	}
}
