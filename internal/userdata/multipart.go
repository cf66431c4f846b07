package userdata

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"mime"
	"mime/multipart"
	"net/textproto"
	"slices"
	"strings"
)

// partType is the content type of the document among other parts. cloud-init
// passes over types that it does not know, with a warning; EKS's nodeadm finds
// its own part in the same way.
const partType = "application/cell.kip.elotl.co"

// CloudInit is user data for cloud-init that goes beside the document.
type CloudInit struct {
	contentType string
	body        []byte
}

// ParseCloudInit reads what cloud-init itself takes: a #cloud-config document, a
// script that begins with #!, or a MIME multi-part of such.
func ParseCloudInit(file []byte) (*CloudInit, error) {
	switch {
	case bytes.HasPrefix(file, []byte("#cloud-config")):
		return &CloudInit{"text/cloud-config", file}, nil
	case bytes.HasPrefix(file, []byte("#!")):
		return &CloudInit{"text/x-shellscript", file}, nil
	}
	header, body, err := splitMessage(file)
	if err != nil {
		return nil, errors.New("it begins neither with #cloud-config nor with #!, and is no MIME multi-part message")
	}
	if _, err := parts(header, body); err != nil {
		return nil, fmt.Errorf("as a MIME multi-part message: %w", err)
	}
	return &CloudInit{header.Get("Content-Type"), body}, nil
}

// Size is the number of bytes before anything is encoded or compressed.
func (c *CloudInit) Size() int { return len(c.body) }

// write appends the part. Text that is not plain ASCII would depend on who
// decodes it how.
func (c *CloudInit) write(w *multipart.Writer) error {
	header := textproto.MIMEHeader{"Content-Type": {c.contentType}}
	body := c.body
	if bytes.ContainsFunc(body, func(r rune) bool { return r > 0x7e }) && !strings.HasPrefix(c.contentType, "multipart/") {
		header.Set("Content-Transfer-Encoding", "base64")
		body = base64Lines(body)
	}
	part, err := w.CreatePart(header)
	if err != nil {
		return err
	}
	_, err = part.Write(body)
	return err
}

// base64Lines encodes into lines of a length that mail allows.
func base64Lines(data []byte) []byte {
	var out bytes.Buffer
	for line := range slices.Chunk([]byte(base64.StdEncoding.EncodeToString(data)), 76) {
		out.Write(line)
		out.WriteByte('\n')
	}
	return out.Bytes()
}

// join makes one message of the document and what is for cloud-init. The same
// input gives the same bytes.
func join(document []byte, extra []*CloudInit) ([]byte, error) {
	var message bytes.Buffer
	w := multipart.NewWriter(&message)
	all := [][]byte{document}
	for _, e := range extra {
		all = append(all, e.body)
	}
	sum := sha256.Sum256(bytes.Join(all, nil))
	if err := w.SetBoundary(fmt.Sprintf("kip-%x", sum[:16])); err != nil {
		return nil, err
	}
	fmt.Fprintf(&message, "MIME-Version: 1.0\r\nContent-Type: multipart/mixed; boundary=%q\r\n\r\n", w.Boundary())
	part, err := w.CreatePart(textproto.MIMEHeader{"Content-Type": {partType}})
	if err == nil {
		_, err = part.Write(document)
	}
	for _, e := range extra {
		if err == nil {
			err = e.write(w)
		}
	}
	if err == nil {
		err = w.Close()
	}
	return message.Bytes(), err
}

// isMessage tells a message from a document, which is JSON.
func isMessage(data []byte) bool { return !bytes.HasPrefix(bytes.TrimSpace(data), []byte("{")) }

// documentIn finds the document among the parts of a message. What is not
// Kip's is cloud-init's.
func documentIn(message []byte) ([]byte, error) {
	header, body, err := splitMessage(message)
	if err != nil {
		return nil, fmt.Errorf("neither a document nor a MIME message: %w", err)
	}
	reader, err := parts(header, body)
	if err != nil {
		return nil, err
	}
	for {
		part, err := reader.NextRawPart()
		if err == io.EOF {
			return nil, fmt.Errorf("no part of the message has the content type %s", partType)
		}
		if err != nil {
			return nil, err
		}
		if part.Header.Get("Content-Type") == partType {
			return io.ReadAll(part)
		}
	}
}

func splitMessage(message []byte) (textproto.MIMEHeader, []byte, error) {
	r := bufio.NewReader(bytes.NewReader(message))
	header, err := textproto.NewReader(r).ReadMIMEHeader()
	if err != nil {
		return nil, nil, err
	}
	body, err := io.ReadAll(r)
	return header, body, err
}

func parts(header textproto.MIMEHeader, body []byte) (*multipart.Reader, error) {
	kind, parameters, err := mime.ParseMediaType(header.Get("Content-Type"))
	if err != nil {
		return nil, err
	}
	if !strings.HasPrefix(kind, "multipart/") || parameters["boundary"] == "" {
		return nil, fmt.Errorf("its content type is %s, and not multipart with a boundary", kind)
	}
	return multipart.NewReader(bytes.NewReader(body), parameters["boundary"]), nil
}
