package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"time"
)

// QMP is QEMU's protocol of one JSON object after another.
type qmpMessage struct {
	Return *json.RawMessage `json:"return"`
	Error  *struct {
		Description string `json:"desc"`
	} `json:"error"`
	Event string `json:"event"`
}

const (
	// monitorPatience is how long QEMU has to listen at its socket.
	monitorPatience = 30 * time.Second
	// qmpPatience is for an answer.
	qmpPatience = 10 * time.Second
)

// pressPowerButton asks what runs in the machine to end, by ACPI.
func pressPowerButton(ctx context.Context, socket string) error {
	return command(ctx, socket, "system_powerdown")
}

// command executes one command without arguments.
func command(ctx context.Context, socket, name string) error {
	ctx, cancel := context.WithTimeout(ctx, qmpPatience)
	defer cancel()
	conn, err := new(net.Dialer).DialContext(ctx, "unix", socket)
	if err != nil {
		return fmt.Errorf("talking to QEMU: %w", err)
	}
	defer conn.Close()
	defer context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })()
	from := json.NewDecoder(conn)
	var greeting struct {
		QMP *json.RawMessage
	}
	if err := from.Decode(&greeting); err != nil || greeting.QMP == nil {
		return errors.Join(errors.New("talking to QEMU: it does not greet"), err)
	}
	for _, c := range []string{"qmp_capabilities", name} {
		if err := json.NewEncoder(conn).Encode(map[string]string{"execute": c}); err != nil {
			return fmt.Errorf("talking to QEMU: %w", err)
		}
		if err := answer(from); err != nil {
			return fmt.Errorf("QEMU's %s: %w", c, err)
		}
	}
	return nil
}

// answer reads past events.
func answer(from *json.Decoder) error {
	for {
		var m qmpMessage
		if err := from.Decode(&m); err != nil {
			return err
		}
		switch {
		case m.Error != nil:
			return errors.New(m.Error.Description)
		case m.Return != nil:
			return nil
		}
	}
}

// awaitMonitor waits until QEMU has made its computer and answers. If it ends before, its message is on the console.
func awaitMonitor(ctx context.Context, socket string, ended func() bool) error {
	ctx, cancel := context.WithTimeout(ctx, monitorPatience)
	defer cancel()
	for {
		err := command(ctx, socket, "query-status")
		if err == nil {
			return nil
		}
		if ended() {
			return errors.New("QEMU ended at once; its console says why")
		}
		select {
		case <-time.After(5 * time.Millisecond):
		case <-ctx.Done():
			return fmt.Errorf("waiting for QEMU: %w", err)
		}
	}
}
