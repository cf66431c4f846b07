package instancetype

import (
	"bytes"
	"compress/gzip"
	"embed"
	"encoding/json"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"
)

//go:embed data
var embedded embed.FS

// Catalogue holds the instance types, and per region their zones and prices.
// It does not change once made and is safe for concurrent use. Regions are
// decoded when first asked for: a Kip needs one of them.
type Catalogue struct {
	types   map[string]*InstanceType
	regions map[string]func() (*Region, error)
}

// Embedded is the catalogue that ships with Kip, decoded once.
var Embedded = sync.OnceValues(func() (*Catalogue, error) {
	types, err := readEmbedded("data/types.json.gz")
	if err != nil {
		return nil, err
	}
	entries, err := embedded.ReadDir("data/regions")
	if err != nil {
		return nil, fmt.Errorf("reading the embedded catalogue: %w", err)
	}
	regions := map[string]func() ([]byte, error){}
	for _, e := range entries {
		name := strings.TrimSuffix(e.Name(), ".json.gz")
		regions[name] = func() ([]byte, error) { return readEmbedded("data/regions/" + e.Name()) }
	}
	return newCatalogue(types, regions)
})

// Load reads a catalogue from a file, plain JSON or gzip:
//
//	{"types": {NAME: InstanceType…}, "regions": {NAME: {"zones": […], "gp3USD": usd, "types": {NAME: [usd, zones, spotUSD]}}}}
//
// See data/README.md for the meaning. It replaces the embedded one as a whole.
func Load(file string) (*Catalogue, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading instance catalogue: %w", err)
	}
	if bytes.HasPrefix(raw, []byte{0x1f, 0x8b}) {
		if raw, err = gunzip(raw); err != nil {
			return nil, fmt.Errorf("reading instance catalogue %s: %w", file, err)
		}
	}
	var doc struct {
		Types   json.RawMessage            `json:"types"`
		Regions map[string]json.RawMessage `json:"regions"`
	}
	if err := decodeStrict(raw, &doc); err != nil {
		return nil, fmt.Errorf("reading instance catalogue %s: %w", file, err)
	}
	regions := make(map[string]func() ([]byte, error), len(doc.Regions))
	for name, r := range doc.Regions {
		regions[name] = func() ([]byte, error) { return r, nil }
	}
	c, err := newCatalogue(doc.Types, regions)
	if err != nil {
		return nil, fmt.Errorf("reading instance catalogue %s: %w", file, err)
	}
	// A file is written by hand or by a script: better refused at start than
	// when the first pod arrives.
	for name := range regions {
		if _, err := c.Region(name); err != nil {
			return nil, fmt.Errorf("reading instance catalogue %s: %w", file, err)
		}
	}
	return c, nil
}

func newCatalogue(types []byte, regions map[string]func() ([]byte, error)) (*Catalogue, error) {
	c := &Catalogue{regions: map[string]func() (*Region, error){}}
	if err := decodeStrict(types, &c.types); err != nil {
		return nil, fmt.Errorf("decoding instance types: %w", err)
	}
	for name, t := range c.types {
		if t == nil || t.VCPUs <= 0 || t.MemoryMiB <= 0 || t.Architecture == "" {
			return nil, fmt.Errorf("decoding instance types: %s: vcpus, memoryMiB and arch must be set", name)
		}
		t.Name = name
	}
	for name, read := range regions {
		c.regions[name] = sync.OnceValues(func() (*Region, error) {
			raw, err := read()
			if err != nil {
				return nil, err
			}
			return newRegion(name, raw, c)
		})
	}
	return c, nil
}

// Type returns an instance type by its exact name, whether or not any region
// offers it. The result is shared and must not be modified.
func (c *Catalogue) Type(name string) (*InstanceType, bool) {
	t, ok := c.types[name]
	return t, ok
}

// TypeNames lists all instance types in alphabetical order.
func (c *Catalogue) TypeNames() []string {
	return slices.Sorted(maps.Keys(c.types))
}

// RegionNames lists the regions in alphabetical order.
func (c *Catalogue) RegionNames() []string {
	return slices.Sorted(maps.Keys(c.regions))
}

// Region returns one region's view. The error of a region that the catalogue
// does not have is an *UnknownRegionError.
func (c *Catalogue) Region(name string) (*Region, error) {
	get, ok := c.regions[name]
	if !ok {
		return nil, &UnknownRegionError{Region: name, Known: c.RegionNames()}
	}
	return get()
}

// UnknownRegionError says that the catalogue has no prices of a region.
type UnknownRegionError struct {
	Region string
	Known  []string
}

func (e *UnknownRegionError) Error() string {
	s := fmt.Sprintf("the instance catalogue has no region %q", e.Region)
	if like := closest(e.Region, e.Known, 3); len(like) > 0 {
		return s + ": did you mean " + orList(like) + "?"
	}
	return s + "; it has " + strings.Join(e.Known, ", ")
}

func readEmbedded(name string) ([]byte, error) {
	raw, err := embedded.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("reading the embedded catalogue: %w", err)
	}
	if raw, err = gunzip(raw); err != nil {
		return nil, fmt.Errorf("reading the embedded catalogue: %s: %w", name, err)
	}
	return raw, nil
}

func gunzip(raw []byte) ([]byte, error) {
	z, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(z)
}

// decodeStrict refuses unknown fields: a misspelt one would silently change
// which instances are launched.
func decodeStrict(raw []byte, into any) error {
	d := json.NewDecoder(bytes.NewReader(raw))
	d.DisallowUnknownFields()
	return d.Decode(into)
}
