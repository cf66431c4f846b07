package deviceplugin

import (
	"errors"

	"google.golang.org/protobuf/encoding/protowire"
)

// The messages of k8s.io/kubelet/pkg/apis/deviceplugin/v1beta1, as far as they
// are used. The numbers are those of its fields.

// registerRequest is RegisterRequest.
func registerRequest(endpoint, resource string) []byte {
	b := appendString(nil, 1, "v1beta1")
	b = appendString(b, 2, endpoint)
	return appendString(b, 3, resource)
}

// listAndWatchResponse is ListAndWatchResponse.
func listAndWatchResponse(ids []string) []byte {
	var b []byte
	for _, id := range ids {
		b = appendMessage(b, 1, appendString(appendString(nil, 1, id), 2, "Healthy"))
	}
	return b
}

// parseAllocateRequest reads an AllocateRequest: the devices for each container.
func parseAllocateRequest(b []byte) (containers [][]string, err error) {
	err = eachMessage(b, 1, func(container []byte) error {
		ids := []string{}
		err := eachMessage(container, 1, func(id []byte) error {
			ids = append(ids, string(id))
			return nil
		})
		containers = append(containers, ids)
		return err
	})
	return containers, err
}

// allocateResponse is AllocateResponse: the CDI devices for each container.
func allocateResponse(containers [][]string) []byte {
	var b []byte
	for _, names := range containers {
		var container []byte
		for _, name := range names {
			container = appendMessage(container, 5, appendString(nil, 1, name))
		}
		b = appendMessage(b, 1, container)
	}
	return b
}

func appendString(b []byte, field protowire.Number, s string) []byte {
	return protowire.AppendString(protowire.AppendTag(b, field, protowire.BytesType), s)
}

func appendMessage(b []byte, field protowire.Number, m []byte) []byte {
	return protowire.AppendBytes(protowire.AppendTag(b, field, protowire.BytesType), m)
}

// eachMessage calls use with each value of a field of strings or messages, and
// skips the fields that it does not know.
func eachMessage(b []byte, field protowire.Number, use func([]byte) error) error {
	for len(b) > 0 {
		number, kind, n := protowire.ConsumeTag(b)
		if n < 0 {
			return errors.New("it is no protobuf message")
		}
		b = b[n:]
		length := protowire.ConsumeFieldValue(number, kind, b)
		if length < 0 {
			return errors.New("it is no protobuf message")
		}
		if number == field && kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(b)
			if err := use(value); err != nil {
				return err
			}
		}
		b = b[length:]
	}
	return nil
}
