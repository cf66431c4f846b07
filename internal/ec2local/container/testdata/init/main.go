// Command init is process 1 of the test machines. It does what it is told over HTTP on port 8080.
package main

import (
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if len(os.Args) > 1 {
		switch os.Args[1] {
		case "sleep":
			time.Sleep(time.Hour)
		case "eat":
			eat(os.Args[2])
		}
		return
	}
	fmt.Println("init runs")
	powerOff := make(chan os.Signal, 1)
	signal.Notify(powerOff, syscall.Signal(38))
	go func() {
		<-powerOff
		fmt.Println("asked to power off")
		os.Exit(0)
	}()
	http.HandleFunc("/info", info)
	http.HandleFunc("/fetch", fetch)
	http.HandleFunc("/run", run)
	http.HandleFunc("/read", read)
	http.HandleFunc("/write", write)
	http.HandleFunc("/mknod", mknod)
	http.HandleFunc("/address", address)
	http.HandleFunc("/print", func(_ http.ResponseWriter, r *http.Request) { fmt.Println(r.FormValue("text")) })
	http.HandleFunc("/exit", func(http.ResponseWriter, *http.Request) { os.Exit(0) })
	http.HandleFunc("/reboot", func(w http.ResponseWriter, _ *http.Request) {
		_ = syscall.Reboot(syscall.LINUX_REBOOT_CMD_POWER_OFF)
	})
	fmt.Println(http.ListenAndServe(":8080", nil))
	os.Exit(1)
}

func answer(w http.ResponseWriter, what string, err error) {
	if err != nil {
		http.Error(w, err.Error(), http.StatusInternalServerError)
		return
	}
	fmt.Fprint(w, what)
}

func info(w http.ResponseWriter, _ *http.Request) {
	hostname, _ := os.Hostname()
	mounts, _ := os.ReadFile("/proc/self/mountinfo")
	cgroup, _ := os.ReadFile("/proc/self/cgroup")
	procs, _ := filepath.Glob("/proc/[0-9]*")
	namespaces := map[string]string{}
	for _, n := range []string{"pid", "mnt", "uts", "ipc", "net", "cgroup"} {
		namespaces[n], _ = os.Readlink("/proc/self/ns/" + n)
	}
	var addresses []string
	all, _ := net.InterfaceAddrs()
	for _, a := range all {
		addresses = append(addresses, a.String())
	}
	_ = json.NewEncoder(w).Encode(map[string]any{
		"hostname": hostname, "pid": os.Getpid(), "mounts": string(mounts), "cgroup": string(cgroup),
		"processes": len(procs), "namespaces": namespaces, "addresses": addresses,
	})
}

// fetch gets a URL, from a given address if there is one.
func fetch(w http.ResponseWriter, r *http.Request) {
	dialer := &net.Dialer{Timeout: time.Second}
	if from := r.FormValue("from"); from != "" {
		dialer.LocalAddr = &net.TCPAddr{IP: net.ParseIP(from)}
	}
	client := &http.Client{Timeout: 2 * time.Second, Transport: &http.Transport{DialContext: dialer.DialContext, DisableKeepAlives: true}}
	resp, err := client.Get(r.FormValue("url"))
	if err != nil {
		answer(w, "", err)
		return
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	answer(w, string(body), err)
}

// run starts this program again, in a session of its own, and waits for it if asked to.
func run(w http.ResponseWriter, r *http.Request) {
	cmd := exec.Command("/proc/self/exe", strings.Fields(r.FormValue("args"))...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if r.FormValue("wait") == "" {
		answer(w, "", cmd.Start())
		return
	}
	out, err := cmd.CombinedOutput()
	answer(w, string(out), err)
}

func read(w http.ResponseWriter, r *http.Request) {
	data, err := os.ReadFile(r.FormValue("path"))
	answer(w, string(data), err)
}

func write(w http.ResponseWriter, r *http.Request) {
	path := r.FormValue("path")
	if r.FormValue("mkdir") != "" {
		answer(w, "", os.MkdirAll(path, 0o755))
		return
	}
	answer(w, "", os.WriteFile(path, []byte(r.FormValue("value")), 0o644))
}

// mknod makes the host's first block device and opens it.
func mknod(w http.ResponseWriter, r *http.Request) {
	major, _ := strconv.Atoi(r.FormValue("major"))
	minor, _ := strconv.Atoi(r.FormValue("minor"))
	if err := syscall.Mknod("/tmp/device", syscall.S_IFBLK|0o600, major<<8|minor); err != nil {
		answer(w, "", err)
		return
	}
	_, err := os.Open("/tmp/device")
	answer(w, "opened", err)
}

// address gives eth0 another address, as ip(8) would.
func address(w http.ResponseWriter, r *http.Request) {
	out, err := exec.Command("/usr/sbin/ip", strings.Fields(r.FormValue("args"))...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%w: %s", err, out)
	}
	answer(w, string(out), err)
}

// eat uses so many MiB of memory.
func eat(mebibytes string) {
	n, _ := strconv.Atoi(mebibytes)
	var all [][]byte
	for range n {
		b := make([]byte, 1<<20)
		for i := 0; i < len(b); i += 4096 {
			b[i] = 1
		}
		all = append(all, b)
	}
	fmt.Println("ate", len(all))
}
