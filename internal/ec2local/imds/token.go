package imds

import (
	"crypto/hmac"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"time"
)

// A token is its time of expiry and a code that only the server can compute of that and the instance: nothing needs to
// be remembered.
const expirySize = 8

// sign makes a token.
func (s *Server) sign(instanceID string, expiry time.Time) string {
	token := binary.BigEndian.AppendUint64(nil, uint64(expiry.Unix()))
	return base64.URLEncoding.EncodeToString(append(token, s.code(token, instanceID)...))
}

// valid tells whether a token belongs to the instance and has not expired.
func (s *Server) valid(token, instanceID string) bool {
	raw, err := base64.URLEncoding.DecodeString(token)
	if err != nil || len(raw) != expirySize+sha256.Size {
		return false
	}
	expiry, code := raw[:expirySize], raw[expirySize:]
	return hmac.Equal(code, s.code(expiry, instanceID)) &&
		s.cfg.Now().Unix() < int64(binary.BigEndian.Uint64(expiry))
}

func (s *Server) code(expiry []byte, instanceID string) []byte {
	mac := hmac.New(sha256.New, s.cfg.Key)
	mac.Write(expiry)
	mac.Write([]byte(instanceID))
	return mac.Sum(nil)
}
