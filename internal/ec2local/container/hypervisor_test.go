package container_test

import (
	"testing"
	"time"
)

const supervisorArg = "supervise"

func supervise(string) {}

func TestMachine(t *testing.T) {
	w := newWorld(t)
	begin := time.Now()
	m := w.start(t, 1)
	t.Log("start took", time.Since(begin))
	i := guest(t, m)
	t.Log("answer after", time.Since(begin))
	t.Logf("%+v", i)
	t.Log(i.Mounts)
	out, err := w.h.Console(m.ID)
	t.Log(string(out), err)
}
