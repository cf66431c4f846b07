// Command testimage is the program of the test image: what busybox cannot do.
package main

import (
	"bufio"
	"context"
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
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/health"
	healthpb "google.golang.org/grpc/health/grpc_health_v1"

	"github.com/elotl/kip/v2/test/runs"
)

const usage = `usage: testimage serve [-state DIR] | print BYTES | get [-n TIMES] URL | ask ADDRESS | lookup KIND NAME |
        peer [ADDRESS:PORT] | probe | work [-for TIME] URL

serve   answers health checks: http on 8080, tcp on 9090, grpc on 9091; each is
        healthy when the file http, tcp or grpc exists in DIR. Answers with its
        host's name and the client's address: http on 8080 (/hello, /client), and
        udp on 8080
print   writes numbered lines of exactly BYTES bytes in all
get     prints the answer to a request, each time on a connection of its own; with
        the pod's own service account, if it is for HTTPS
ask     sends a UDP packet and prints the answer
lookup  asks the resolver for addresses (host), a canonical name (cname), SRV
        records (srv) or the names of an address (addr), one a line in order
peer    sends back what it gets, over TCP, UDP and SCTP
probe   tries connections that it is told of on its standard input
work    works for some time, or until it is told to end, and reports to URL
        meanwhile; what pod it is comes from POD_NAME, POD_UID and HOST_IP`

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
		flags := flag.NewFlagSet("get", flag.ContinueOnError)
		times := flags.Int("n", 1, "how often")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		for range *times {
			if err := get(flags.Arg(0)); err != nil {
				return err
			}
		}
		return nil
	case "ask":
		if len(args) != 2 {
			return errors.New(usage)
		}
		return ask(args[1])
	case "lookup":
		if len(args) != 3 {
			return errors.New(usage)
		}
		return lookup(args[1], args[2])
	case "forward":
		flags := flag.NewFlagSet("forward", flag.ContinueOnError)
		until := flags.String("until", "", "what the answer must have, separated by commas")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		if flags.NArg() != 1 {
			return errors.New(usage)
		}
		return forward(flags.Arg(0), strings.Split(*until, ","))
	case "peer":
		return peer(args[1:])
	case "probe":
		return probe()
	case "work":
		flags := flag.NewFlagSet("work", flag.ContinueOnError)
		work := flags.Duration("for", 0, "how long; 0 is until it is told to end")
		if err := flags.Parse(args[1:]); err != nil {
			return err
		}
		pod := runs.Pod{Name: os.Getenv("POD_NAME"), UID: os.Getenv("POD_UID"), HostIP: os.Getenv("HOST_IP"), Index: os.Getenv("JOB_COMPLETION_INDEX")}
		ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
		defer stop()
		return runs.Work(ctx, flags.Arg(0), pod, *work)
	}
	return errors.New(usage)
}

// account is where a pod finds its service account.
const account = "/var/run/secrets/kubernetes.io/serviceaccount/"

// get prints the answer to a GET. Servers with TLS are trusted by the cluster's
// CA, and told the pod's token.
func get(url string) error {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	req, err := http.NewRequest(http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	if req.URL.Scheme == "https" {
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

// ask sends a UDP packet and prints what comes back.
func ask(address string) error {
	conn, err := net.Dial("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(5 * time.Second)); err != nil {
		return err
	}
	if _, err := conn.Write([]byte("?")); err != nil {
		return err
	}
	answer := make([]byte, 512)
	n, err := conn.Read(answer)
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(answer[:n])
	return err
}

// lookup prints what the resolver knows, sorted.
func lookup(kind, name string) error {
	var (
		found []string
		err   error
	)
	switch kind {
	case "host":
		found, err = net.LookupHost(name)
	case "addr":
		found, err = net.LookupAddr(name)
	case "cname":
		var cname string
		cname, err = net.LookupCNAME(name)
		found = []string{cname}
	case "srv":
		var records []*net.SRV
		_, records, err = net.LookupSRV("", "", name)
		for _, r := range records {
			found = append(found, fmt.Sprintf("%s:%d", r.Target, r.Port))
		}
	default:
		return errors.New(usage)
	}
	if err != nil {
		return err
	}
	slices.Sort(found)
	for _, line := range found {
		fmt.Println(line)
	}
	return nil
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
	failed := make(chan error, 4)

	http.HandleFunc("/healthz", func(w http.ResponseWriter, _ *http.Request) {
		if !healthy("http") {
			http.Error(w, "not yet", http.StatusServiceUnavailable)
		}
	})
	http.HandleFunc("/hello", func(w http.ResponseWriter, _ *http.Request) {
		name, _ := os.Hostname()
		fmt.Fprintln(w, "hello from", name)
	})
	http.HandleFunc("/hook/{name}", func(_ http.ResponseWriter, r *http.Request) {
		fmt.Println(r.PathValue("name"))
	})
	http.HandleFunc("/client", func(w http.ResponseWriter, r *http.Request) {
		host, _, _ := net.SplitHostPort(r.RemoteAddr)
		fmt.Fprintln(w, host)
	})
	go func() { failed <- answerPackets(":8080") }()
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

// answerPackets says hello to whoever sends a UDP packet.
func answerPackets(address string) error {
	conn, err := net.ListenPacket("udp", address)
	if err != nil {
		return err
	}
	defer conn.Close()
	name, _ := os.Hostname()
	for packet := make([]byte, 512); ; {
		_, from, err := conn.ReadFrom(packet)
		if err != nil {
			return err
		}
		if _, err := conn.WriteTo([]byte("hello from "+name+"\n"), from); err != nil {
			return err
		}
	}
}
