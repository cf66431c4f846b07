package snapshot

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
)

// The checksums of a snapshot's blocks are in a file beside it that only grows, an entry for each block that was written.
// The last one of a block counts.

// entrySize is a block's index and its checksum.
const entrySize = 8 + sha256.Size

func (s *Store) checksumsFile(id string) string { return s.Disk(id) + ".sha256" }

func (s *Store) addChecksum(id string, index int, sum [sha256.Size]byte) error {
	f, err := os.OpenFile(s.checksumsFile(id), os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	_, err = f.Write(append(binary.BigEndian.AppendUint64(nil, uint64(index)), sum[:]...))
	return err
}

func (s *Store) checksums(id string) (map[int][sha256.Size]byte, error) {
	raw, err := os.ReadFile(s.checksumsFile(id))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	out := map[int][sha256.Size]byte{}
	for entries := bytes.NewBuffer(raw); entries.Len() >= entrySize; {
		index := binary.BigEndian.Uint64(entries.Next(8))
		out[int(index)] = [sha256.Size]byte(entries.Next(sha256.Size))
	}
	return out, nil
}
