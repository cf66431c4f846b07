package query

import (
	"encoding/xml"
	"fmt"
	"io"
	"time"
)

// Version is the only version of the EC2 API that is spoken here, and the only one EC2 has had for years.
const Version = "2016-11-15"

const namespace = "http://ec2.amazonaws.com/doc/" + Version + "/"

// Answer is embedded first in every answer.
type Answer struct {
	RequestID string `xml:"requestId"`
}

func (a *Answer) setRequestID(id string) { a.RequestID = id }

// Answerer is an answer of an operation: a pointer to a struct that embeds [Answer].
type Answerer interface{ setRequestID(id string) }

// Set is a list in an answer. Unlike a plain slice, an empty one is an empty element, as EC2 has it.
type Set[T any] struct {
	Items []T `xml:"item"`
}

// SetOf makes a Set.
func SetOf[T any](items ...T) Set[T] { return Set[T]{Items: items} }

// Time is a time in an answer, in the form that EC2 uses: UTC with milliseconds.
type Time time.Time

// MarshalText implements [encoding.TextMarshaler].
func (t Time) MarshalText() ([]byte, error) {
	return []byte(time.Time(t).UTC().Format("2006-01-02T15:04:05.000Z")), nil
}

// EncodeAnswer writes the answer to an operation.
func EncodeAnswer(w io.Writer, operation, requestID string, answer Answerer) error {
	answer.setRequestID(requestID)
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	root := xml.StartElement{
		Name: xml.Name{Local: operation + "Response"},
		Attr: []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: namespace}},
	}
	if err := xml.NewEncoder(w).EncodeElement(answer, root); err != nil {
		return fmt.Errorf("encoding the answer to %s: %w", operation, err)
	}
	return nil
}

// EncodeError writes an error as an answer.
func EncodeError(w io.Writer, requestID string, e *Error) error {
	type code struct {
		Code    string `xml:"Code"`
		Message string `xml:"Message"`
	}
	type response struct {
		XMLName   xml.Name `xml:"Response"`
		Error     code     `xml:"Errors>Error"`
		RequestID string   `xml:"RequestID"`
	}
	if _, err := io.WriteString(w, xml.Header); err != nil {
		return err
	}
	answer := response{Error: code{Code: e.Code, Message: e.Message}, RequestID: requestID}
	if err := xml.NewEncoder(w).Encode(answer); err != nil {
		return fmt.Errorf("encoding the error %s: %w", e.Code, err)
	}
	return nil
}
