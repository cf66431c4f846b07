package query

import (
	"encoding/xml"
	"fmt"
	"io"
	"net/http"
)

// Wire is how services other than EC2 write their answers in the Query protocol: the answer proper is an element of its
// own, the request's ID stands in metadata, and errors say whose fault they are.
type Wire struct {
	// Version is the only version of the service's API that is spoken here.
	Version string
	// Namespace is the XML namespace of answers.
	Namespace string
}

// The services that speak it.
var (
	IAM = Wire{Version: "2010-05-08", Namespace: "https://iam.amazonaws.com/doc/2010-05-08/"}
	STS = Wire{Version: "2011-06-15", Namespace: "https://sts.amazonaws.com/doc/2011-06-15/"}
)

// Members is a list in an answer of these services. An empty one is an empty element.
type Members[T any] struct {
	Items []T `xml:"member"`
}

type metadata struct {
	RequestID string `xml:"RequestId"`
}

// EncodeAnswer writes the answer to an operation; a nil one stands for operations that say nothing.
func (w Wire) EncodeAnswer(out io.Writer, operation, requestID string, answer any) error {
	if _, err := io.WriteString(out, xml.Header); err != nil {
		return err
	}
	element := func(name string) xml.StartElement { return xml.StartElement{Name: xml.Name{Local: name}} }
	root := element(operation + "Response")
	root.Attr = []xml.Attr{{Name: xml.Name{Local: "xmlns"}, Value: w.Namespace}}
	e := xml.NewEncoder(out)
	err := e.EncodeToken(root)
	if err == nil && answer != nil {
		err = e.EncodeElement(answer, element(operation+"Result"))
	}
	if err == nil {
		err = e.EncodeElement(metadata{RequestID: requestID}, element("ResponseMetadata"))
	}
	if err == nil {
		err = e.EncodeToken(root.End())
	}
	if err == nil {
		err = e.Close()
	}
	if err != nil {
		return fmt.Errorf("encoding the answer to %s: %w", operation, err)
	}
	return nil
}

// EncodeError writes an error as an answer.
func (w Wire) EncodeError(out io.Writer, requestID string, e *Error) error {
	type fault struct {
		Type    string
		Code    string
		Message string
	}
	type response struct {
		XMLName   xml.Name `xml:"ErrorResponse"`
		Namespace string   `xml:"xmlns,attr"`
		Error     fault
		RequestID string `xml:"RequestId"`
	}
	whose := "Sender"
	if e.Status >= http.StatusInternalServerError {
		whose = "Receiver"
	}
	if _, err := io.WriteString(out, xml.Header); err != nil {
		return err
	}
	answer := response{Namespace: w.Namespace, Error: fault{whose, e.Code, e.Message}, RequestID: requestID}
	if err := xml.NewEncoder(out).Encode(answer); err != nil {
		return fmt.Errorf("encoding the error %s: %w", e.Code, err)
	}
	return nil
}
