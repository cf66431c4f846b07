package signature

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
)

// Credentials are access keys and their secrets. A file of them is a JSON object, access key to secret key.
type Credentials map[string]string

// ReadCredentials reads a file of credentials.
func ReadCredentials(file string) (Credentials, error) {
	raw, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading the credentials: %w", err)
	}
	var c Credentials
	if err := json.Unmarshal(raw, &c); err != nil {
		return nil, fmt.Errorf("reading the credentials: %s: %w", file, err)
	}
	for key, secret := range c {
		if key == "" || secret == "" {
			return nil, fmt.Errorf("reading the credentials: %s: %w", file, errEmpty)
		}
	}
	return c, nil
}

var errEmpty = errors.New("an access key or its secret is empty")
