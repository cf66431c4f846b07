package networkpolicy

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/elotl/kip/v2/internal/networkpolicy/rules"
)

// store is the file that has the last state.
type store string

// load returns nil if there is none.
func (s store) load() (*rules.State, error) {
	content, err := os.ReadFile(string(s))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("reading the last network policy: %w", err)
	}
	var u rules.Update
	if err := json.Unmarshal(content, &u); err != nil {
		return nil, fmt.Errorf("reading the last network policy: %w", err)
	}
	u.From = ""
	state, err := rules.State{}.Apply(u)
	if err != nil {
		return nil, fmt.Errorf("reading the last network policy: %w", err)
	}
	return &state, nil
}

// save replaces the file in one step. If it cannot, there is none: older rules
// may be looser ones.
func (s store) save(state rules.State) (err error) {
	temporary := string(s) + ".new"
	defer func() {
		if err != nil {
			_, _ = os.Remove(temporary), os.Remove(string(s))
			err = fmt.Errorf("keeping the network policy: %w", err)
		}
	}()
	content, err := json.Marshal(state.Whole())
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(temporary), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(temporary, content, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, string(s))
}
