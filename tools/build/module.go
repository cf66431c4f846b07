package main

import (
	"bufio"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"time"
)

// requiredVersion returns the version of module path that the go.mod file
// requires: the one place where a program's version is written.
func requiredVersion(file, path string) (string, error) {
	f, err := os.Open(file)
	if err != nil {
		return "", fmt.Errorf("reading the pinned version of %s: %w", path, err)
	}
	defer f.Close()
	lines := bufio.NewScanner(f)
	for lines.Scan() {
		fields := strings.Fields(strings.TrimPrefix(strings.TrimSpace(lines.Text()), "require "))
		if len(fields) >= 2 && fields[0] == path && strings.HasPrefix(fields[1], "v") {
			return fields[1], nil
		}
	}
	if err := lines.Err(); err != nil {
		return "", fmt.Errorf("reading the pinned version of %s: %w", path, err)
	}
	return "", fmt.Errorf("%s requires no %s", file, path)
}

// fingerprint identifies everything that decides what p's binaries contain. A
// built program carries it, and is built again when it changes.
func fingerprint(p program, moduleDir, version string) (string, error) {
	hash := sha256.New()
	fmt.Fprintf(hash, "%s %s/%s cgo=%t %q %q %q\n", runtime.Version(), runtime.GOOS, runtime.GOARCH, p.cgo,
		p.buildFlags(), p.ldflags(version, time.Time{}), p.packages())
	files, err := os.ReadDir(moduleDir)
	if err != nil {
		return "", fmt.Errorf("reading the module of %s: %w", p.name, err)
	}
	for _, file := range files { // sorted by name: go.mod, go.sum and a main.go of ours
		if file.IsDir() {
			continue
		}
		content, err := os.ReadFile(filepath.Join(moduleDir, file.Name()))
		if err != nil {
			return "", fmt.Errorf("reading the module of %s: %w", p.name, err)
		}
		fmt.Fprintf(hash, "%s %d\n%s", file.Name(), len(content), content)
	}
	return hex.EncodeToString(hash.Sum(nil)), nil
}
