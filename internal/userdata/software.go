package userdata

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"text/template"
)

// Software is an archive of what a stock image lacks of a cell, for one
// architecture: a tar file, gzipped, with bin/ (kip-cell, kube-proxy) and
// cni/bin/ (CNI plugins).
type Software struct {
	// Machine is the architecture in the words of uname: x86_64 or aarch64.
	Machine string
	// URL is where the instance fetches it from, with curl.
	URL string
	// SHA256 is the hash of the archive, in hexadecimal digits.
	SHA256 string
}

var (
	//go:embed stock.sh
	stockScript   string
	stockTemplate = template.Must(template.New("stock.sh").Parse(stockScript))

	// harmless is what a URL may consist of: it becomes part of a shell script,
	// between quotes.
	harmless = regexp.MustCompile(`^[-A-Za-z0-9._~:/?#@!$&()*+,;=%]+$`)
	hash     = regexp.MustCompile(`^[0-9a-f]{64}$`)
)

// Validate says what is wrong with it.
func (s Software) Validate() error {
	u, err := url.Parse(s.URL)
	if err != nil || u.Host == "" || u.Scheme != "http" && u.Scheme != "https" || !harmless.MatchString(s.URL) {
		return fmt.Errorf("%q is not an http or https URL", s.URL)
	}
	if !hash.MatchString(s.SHA256) {
		return fmt.Errorf("%q is not a SHA-256 hash: 64 hexadecimal digits in lower case", s.SHA256)
	}
	return nil
}

// StockImage is user data that makes a cell of an image with cloud-init, systemd,
// curl, a kubelet, containerd and runc, such as Amazon's for nodes of EKS: it
// takes the image's own programs out of the way, fetches the software and starts
// the agent.
func StockImage(software ...Software) (*CloudInit, error) {
	if len(software) == 0 {
		return nil, errors.New("there is no software for any architecture")
	}
	for _, s := range software {
		if err := s.Validate(); err != nil {
			return nil, err
		}
	}
	var script bytes.Buffer
	if err := stockTemplate.Execute(&script, software); err != nil {
		return nil, fmt.Errorf("writing the script for stock images: %w", err)
	}
	// A boot hook runs as soon as cloud-init has the user data, before all else
	// that it does.
	return &CloudInit{"text/cloud-boothook", script.Bytes()}, nil
}
