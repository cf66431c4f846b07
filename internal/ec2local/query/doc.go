// Package query is the wire of EC2's Query protocol: requests are forms (POST) or query strings (GET) with flattened
// parameter names, answers are XML. It knows no operation; [Decode] fills a request's struct, [EncodeAnswer] and
// [EncodeError] write what comes back.
package query
