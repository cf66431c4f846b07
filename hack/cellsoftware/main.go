// Command cellsoftware packs what a stock machine image lacks of a cell, for cells.software in provider.yaml, and prints
// the archive's SHA-256. Run it where make tools build has been.
package main

import (
	"crypto/sha256"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/elotl/kip/v2/internal/cellsoftware"
)

func main() {
	out := flag.String("o", "bin/kip-cell-software.tar.gz", "the archive to write")
	agent := flag.String("agent", "bin", "directory with kip-cell")
	tools := flag.String("tools", ".cache/tools/bin", "directory with kube-proxy and the CNI plugins")
	flag.Parse()
	if err := write(*out, *agent, *tools); err != nil {
		fmt.Fprintln(os.Stderr, "cellsoftware:", err)
		os.Exit(1)
	}
}

func write(out, agent, tools string) error {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	sum := sha256.New()
	if err := cellsoftware.Write(io.MultiWriter(f, sum), agent, tools); err != nil {
		return err
	}
	fmt.Printf("%x  %s\n", sum.Sum(nil), out)
	return f.Close()
}
