// Command web is the example application: a web page that shows where its pod
// runs and what it was given, and a job that counts.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

func main() {
	count := flag.Int("count", 0, "count to this number, a line each, and end; 0 serves")
	listen := flag.String("listen", ":8080", "where to serve")
	flag.Parse()

	if *count > 0 {
		for i := 1; i <= *count; i++ {
			fmt.Println("counted", i)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := serve(ctx, *listen); err != nil {
		slog.Error("serving", "err", err)
		os.Exit(1)
	}
}

// page is what GET / answers. Of the secret it shows only that it is there.
type page struct {
	Greeting    string `json:"greeting"`
	Pod         string `json:"pod"`
	PodIP       string `json:"podIP"`
	Node        string `json:"node"`
	HostIP      string `json:"hostIP"`
	Hostname    string `json:"hostname"`
	SecretBytes int    `json:"secretBytes"`
}

func serve(ctx context.Context, listen string) error {
	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) { fmt.Fprintln(w, "ok") })
	mux.HandleFunc("GET /{$}", func(w http.ResponseWriter, _ *http.Request) {
		// Read at each request: a changed ConfigMap or Secret shows at once.
		greeting, err := os.ReadFile("/etc/web/greeting")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		secret, err := os.ReadFile("/etc/web-secret/token")
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		host, err := os.Hostname()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		w.Header().Set("Content-Type", "application/json")
		err = json.NewEncoder(w).Encode(page{
			Greeting: string(greeting), SecretBytes: len(secret), Hostname: host,
			Pod: os.Getenv("POD_NAME"), PodIP: os.Getenv("POD_IP"), Node: os.Getenv("NODE_NAME"), HostIP: os.Getenv("HOST_IP"),
		})
		if err != nil {
			slog.Warn("answering", "err", err)
		}
	})

	server := &http.Server{Addr: listen, Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	ended := make(chan error, 1)
	go func() {
		<-ctx.Done()
		slog.Info("ending: finishing what is under way")
		grace, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		ended <- server.Shutdown(grace)
	}()
	slog.Info("serving", "address", listen, "pod", os.Getenv("POD_NAME"))
	if err := server.ListenAndServe(); !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return <-ended
}
