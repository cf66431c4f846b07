package deviceplugin

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strconv"
)

const (
	contentType = "application/grpc"
	// maxMessage is far more than the kubelet sends.
	maxMessage = 64 << 10
	// prefix is what stands before a message: whether it is compressed, and its
	// length.
	prefix = 5
)

// Codes of gRPC's that are used here.
const (
	codeOK              = 0
	codeInvalidArgument = 3
	codeUnimplemented   = 12
)

// protocols is HTTP/2 without TLS and without an upgrade, which is how gRPC
// speaks over a local socket.
func protocols() *http.Protocols {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	return p
}

// readMessage reads one message.
func readMessage(r io.Reader) ([]byte, error) {
	var head [prefix]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return nil, fmt.Errorf("reading a gRPC message: %w", err)
	}
	length := binary.BigEndian.Uint32(head[1:])
	if head[0] != 0 || length > maxMessage {
		return nil, fmt.Errorf("reading a gRPC message: it is compressed, or %d bytes are too many", length)
	}
	message := make([]byte, length)
	if _, err := io.ReadFull(r, message); err != nil {
		return nil, fmt.Errorf("reading a gRPC message: %w", err)
	}
	return message, nil
}

// frame puts the prefix before a message.
func frame(message []byte) []byte {
	return append(binary.BigEndian.AppendUint32([]byte{0}, uint32(len(message))), message...)
}

// begin starts an answer, which end ends. Between them are its messages.
func begin(w http.ResponseWriter) {
	w.Header().Set("Content-Type", contentType)
	w.Header().Set("Trailer", "Grpc-Status, Grpc-Message")
	w.WriteHeader(http.StatusOK)
}

func end(w http.ResponseWriter, code int, message string) {
	w.Header().Set("Grpc-Status", strconv.Itoa(code))
	w.Header().Set("Grpc-Message", message)
}

// answer is an answer of one message.
func answer(w http.ResponseWriter, message []byte) {
	begin(w)
	_, _ = w.Write(frame(message)) // the kubelet may be gone
	end(w, codeOK, "")
}

func refuse(w http.ResponseWriter, code int, why string) {
	begin(w)
	end(w, code, why)
}

// outcome is what a server says at the end of its answer, whose body was read.
func outcome(resp *http.Response) error {
	if resp.StatusCode != http.StatusOK {
		return errors.New(resp.Status)
	}
	// An answer without messages has its trailers among the headers.
	for _, h := range []http.Header{resp.Trailer, resp.Header} {
		switch code := h.Get("Grpc-Status"); code {
		case "":
		case "0":
			return nil
		default:
			return fmt.Errorf("gRPC status %s: %s", code, h.Get("Grpc-Message"))
		}
	}
	return errors.New("it ended without a gRPC status")
}
