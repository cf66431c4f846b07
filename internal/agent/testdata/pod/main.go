// Command pod is all that runs in the boot test's pod: "pod pause" holds the
// sandbox, "pod web" answers HTTP on port 8080 with what it knows of itself,
// "pod say" says its argument and exits with 7, "pod gpus" which GPUs it has.
package main

import (
	"fmt"
	"net/http"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 2 && os.Args[1] == "say" {
		fmt.Println(os.Args[2])
		os.Exit(7)
	}
	if len(os.Args) > 1 && os.Args[1] == "gpus" {
		nodes, err := filepath.Glob("/dev/nvidia*")
		fmt.Println(os.Getenv("GPU"), nodes)
		if err != nil {
			os.Exit(1)
		}
		return
	}
	stop := make(chan os.Signal, 1)
	signal.Notify(stop, syscall.SIGTERM, syscall.SIGINT)
	if len(os.Args) > 1 && os.Args[1] == "web" {
		started := time.Now().UnixNano()
		fmt.Println("the web server starts")
		http.HandleFunc("/", func(w http.ResponseWriter, r *http.Request) {
			fmt.Fprintf(w, "pod %s from %s started %d", os.Getenv("POD_IP"), r.RemoteAddr, started)
		})
		go func() { fmt.Println(http.ListenAndServe(":8080", nil)) }()
	}
	<-stop
}
