package userdata

import (
	"bytes"
	"os/exec"
	"strings"
	"testing"
)

var (
	hashA = strings.Repeat("0123456789abcdef", 4)
	amd64 = Software{Machine: "x86_64", URL: "https://example.com/kip?a=1&b=2", SHA256: hashA}
)

func TestStockImage(t *testing.T) {
	arm64 := Software{Machine: "aarch64", URL: "http://10.0.0.1:5000/v2/kip/blobs/sha256:" + hashA, SHA256: hashA}
	stock, err := StockImage(amd64, arm64)
	if err != nil {
		t.Fatal(err)
	}
	script := string(stock.body)
	for _, want := range []string{
		"#!/bin/sh\n",
		"\n  x86_64) url='https://example.com/kip?a=1&b=2' sum=" + hashA + " ;;\n  aarch64) url='http://10.0.0.1:5000/v2/kip/blobs/sha256:",
	} {
		if !strings.Contains(script, want) {
			t.Errorf("the script lacks %q:\n%s", want, script)
		}
	}
	check := exec.Command("sh", "-n")
	check.Stdin = strings.NewReader(script)
	if out, err := check.CombinedOutput(); err != nil {
		t.Errorf("a shell does not understand it: %v\n%s", err, out)
	}
	if shellcheck, err := exec.LookPath("shellcheck"); err == nil {
		check := exec.Command(shellcheck, "-")
		check.Stdin = strings.NewReader(script)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("shellcheck: %v\n%s", err, out)
		}
	}

	doc := document(t)
	file, err := ParseCloudInit([]byte("#cloud-config\npackages: [htop]\n"))
	if err != nil {
		t.Fatal(err)
	}
	data, err := Encode(doc, stock, file)
	if err != nil {
		t.Fatal(err)
	}
	if len(data) > MaxBytes/2 || isGzip(data) {
		t.Errorf("it takes %d bytes of the user data", len(data))
	}
	if again, err := Encode(doc, stock, file); err != nil || !bytes.Equal(data, again) {
		t.Errorf("a repeated launch would be another request: %v", err)
	}
	if hook, config := bytes.Index(data, []byte("text/cloud-boothook")), bytes.Index(data, []byte("text/cloud-config")); hook < 0 || config < hook {
		t.Errorf("the boot hook is at %d, the operator's file at %d", hook, config)
	}
	if got, err := Decode(data); err != nil || got.Cell != doc.Cell {
		t.Errorf("the agent reads %+v, %v", got, err)
	}
}

func TestSoftwareRefused(t *testing.T) {
	cases := map[string]struct {
		reason string
		change func(*Software)
	}{
		"Scheme":     {"curl would read the instance's own files.", func(s *Software) { s.URL = "file:///etc/passwd" }},
		"NoHost":     {"It leads nowhere.", func(s *Software) { s.URL = "https:///kip" }},
		"Quote":      {"It would end the script's quotes.", func(s *Software) { s.URL = "https://example.com/'; reboot; '" }},
		"Space":      {"It would be two words.", func(s *Software) { s.URL = "https://example.com/a b" }},
		"ShortHash":  {"No archive has it.", func(s *Software) { s.SHA256 = "abc" }},
		"UpperCase":  {"sha256sum writes lower case.", func(s *Software) { s.SHA256 = strings.ToUpper(hashA) }},
		"HashScript": {"It stands in the script unquoted.", func(s *Software) { s.SHA256 = hashA[:60] + ";id;" }},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			s := amd64
			tc.change(&s)
			if _, err := StockImage(s); err == nil {
				t.Errorf("%s accepted", tc.reason)
			}
		})
	}
	if _, err := StockImage(); err == nil {
		t.Error("a script without any software was made")
	}
}
