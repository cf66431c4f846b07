// Command catalogue writes the data of internal/instancetype from files of
// facts about EC2 (internal/instancetype/data/README.md says which and whence).
//
//	go run ./hack/catalogue -data DIR -out internal/instancetype/data
//
// DIR holds ec2-instance-types.json, ec2-prices.json, ec2-spot.json,
// ec2-offerings.json, fargate-prices.json. The output is the same for the same input.
package main

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"path/filepath"
)

func main() {
	data := flag.String("data", "", "folder of the facts")
	out := flag.String("out", "", "folder to write, usually internal/instancetype/data")
	flag.Parse()
	if err := run(*data, *out); err != nil {
		fmt.Fprintln(os.Stderr, "catalogue:", err)
		os.Exit(1)
	}
}

func run(data, out string) error {
	if data == "" || out == "" {
		return errors.New("both -data and -out must be given")
	}
	in, err := readFacts(data)
	if err != nil {
		return err
	}
	regions, err := in.regions()
	if err != nil {
		return err
	}
	regionsDir := filepath.Join(out, "regions")
	if err := os.MkdirAll(regionsDir, 0o755); err != nil {
		return err
	}
	old, err := filepath.Glob(filepath.Join(regionsDir, "*.json.gz"))
	if err != nil {
		return err
	}
	for _, f := range old {
		if err := os.Remove(f); err != nil {
			return err
		}
	}
	if err := write(filepath.Join(out, "types.json.gz"), in.types()); err != nil {
		return err
	}
	for name, r := range regions {
		if err := write(filepath.Join(regionsDir, name+".json.gz"), r); err != nil {
			return err
		}
	}
	fmt.Printf("%d instance types, %d regions\n", len(in.Types), len(regions))
	return nil
}

// write compresses without a time stamp, so that nothing changes where no fact
// changed. encoding/json sorts the keys.
func write(file string, v any) error {
	raw, err := json.Marshal(v)
	if err != nil {
		return err
	}
	var b bytes.Buffer
	z, err := gzip.NewWriterLevel(&b, gzip.BestCompression)
	if err != nil {
		return err
	}
	if _, err := z.Write(raw); err != nil {
		return err
	}
	if err := z.Close(); err != nil {
		return err
	}
	return os.WriteFile(file, b.Bytes(), 0o644)
}
