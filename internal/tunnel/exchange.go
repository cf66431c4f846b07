package tunnel

import (
	"bufio"
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/elotl/kip/v2/internal/enrolment"
)

// exchange is a short HTTP/1.1 conversation on a connection of its own, for
// which a pool of connections would only be in the way: enrolment depends on
// every request going over the same TLS session.
type exchange struct {
	conn *tls.Conn
	in   *bufio.Reader
	stop func() bool
}

// newExchange takes the connection over. The context, and exchangeTimeout,
// bound the whole conversation.
func newExchange(ctx context.Context, conn *tls.Conn) (*exchange, error) {
	if err := conn.SetDeadline(time.Now().Add(exchangeTimeout)); err != nil {
		return nil, err
	}
	return &exchange{
		conn: conn,
		// The other side may be anybody: all it can say is bounded.
		in:   bufio.NewReader(io.LimitReader(conn, 4*enrolment.MaxMessageBytes)),
		stop: context.AfterFunc(ctx, func() { _ = conn.Close() }),
	}, nil
}

func (x *exchange) close() {
	x.stop()
	_ = x.conn.Close()
}

// statusError is an answer that is not a success.
type statusError struct {
	status int
	text   string
}

func (e *statusError) Error() string {
	return fmt.Sprintf("the agent answered %d %s: %s", e.status, http.StatusText(e.status), e.text)
}

// do sends one request, with in as JSON unless it is nil, and reads the answer,
// unless it is empty, into out, unless that is nil. Any answer but a 2xx is a *statusError.
func (x *exchange) do(ctx context.Context, method, path, host string, in, out any) error {
	var body io.Reader
	if in != nil {
		data, err := json.Marshal(in)
		if err != nil {
			return fmt.Errorf("%s %s: %w", method, path, err)
		}
		body = bytes.NewReader(data)
	}
	req, err := http.NewRequestWithContext(ctx, method, "https://"+host+path, body)
	if err != nil {
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	if in != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	if err := x.roundTrip(req, out); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return fmt.Errorf("%s %s: %w", method, path, err)
	}
	return nil
}

func (x *exchange) roundTrip(req *http.Request, out any) error {
	if err := req.Write(x.conn); err != nil {
		return err
	}
	resp, err := http.ReadResponse(x.in, req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(io.LimitReader(resp.Body, enrolment.MaxMessageBytes+1))
	if err != nil {
		return err
	}
	if len(data) > enrolment.MaxMessageBytes {
		return errors.New("the answer is too long")
	}
	if resp.StatusCode < 200 || resp.StatusCode > 299 {
		return &statusError{status: resp.StatusCode, text: fmt.Sprintf("%.200q", strings.TrimSpace(string(data)))}
	}
	if out == nil || len(data) == 0 {
		return nil
	}
	return json.Unmarshal(data, out)
}
