package e2e

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"syscall"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/ec2"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// trouble is one kind of thing that goes wrong.
type trouble struct {
	// weight is how often it does, compared with others.
	weight int
	// do returns whom it hit; with an error it missed, because something else has
	// gone wrong before.
	do func(c *chaos, ctx context.Context) (whom string, err error)
}

// troubles are all of them. The order is part of what a seed means.
var troubles = []struct {
	name string
	trouble
}{
	{"Kip is killed", trouble{4, crash(localcluster.Kip)}},
	{"ec2local is killed", trouble{2, crash(localcluster.EC2Local)}},
	{"the API server is killed", trouble{2, crash(localcluster.APIServer)}},
	{"a kubelet is killed", trouble{3, killProgram("kubelet", harmsStart)}},
	{"a containerd is killed", trouble{3, killProgram("containerd", harmsStart)}},
	{"a kube-proxy is killed", trouble{1, killProgram("kube-proxy", harmless)}},
	{"an agent is killed", trouble{2, (*chaos).killAgent}},
	{"an agent hangs", trouble{1, (*chaos).hangAgent}},
	{"an instance is terminated", trouble{2, (*chaos).terminate}},
	{"a spot instance is interrupted", trouble{2, (*chaos).takeSpot}},
	{"a pod is deleted", trouble{2, (*chaos).deletePod}},
}

// strikeOnce has one thing go wrong.
func (c *chaos) strikeOnce() {
	sum := 0
	for _, t := range troubles {
		sum += t.weight
	}
	n := c.random.IntN(sum)
	for _, t := range troubles {
		if n -= t.weight; n >= 0 {
			continue
		}
		ctx, cancel := context.WithTimeout(c.Context(), 10*time.Second)
		defer cancel()
		whom, err := t.do(c, ctx)
		if err != nil {
			whom = "in vain: " + err.Error()
		}
		c.tell("%s: %s", t.name, whom)
		return
	}
}

// crash kills a part of the cluster, and starts it again some time later.
func crash(name string) func(*chaos, context.Context) (string, error) {
	return func(c *chaos, _ context.Context) (string, error) {
		away := c.between(0, 8*time.Second)
		if !c.takeDown(name) {
			return "", errors.New("it is down")
		}
		if err := shared.Kill(name); err != nil {
			return "", err
		}
		c.restarts.Go(func() {
			time.Sleep(away)
			c.bringUp(name)
		})
		return fmt.Sprintf("for %.1f s", away.Seconds()), nil
	}
}

// takeDown says whether the component was up until now.
func (c *chaos) takeDown(name string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.down[name] {
		return false
	}
	c.down[name] = true
	return true
}

// bringUp starts a component, as often as it takes: it may need another one that
// is down.
func (c *chaos) bringUp(name string) {
	err := poll(context.Background(), upTimeout, func(ctx context.Context) error { return shared.Start(ctx, name) })
	if err != nil {
		c.violated("%s does not start again: %v", name, err)
	}
	c.mu.Lock()
	delete(c.down, name)
	c.mu.Unlock()
	c.tell("%s is back", name)
}

// restartKip starts a Kip again that has ended by itself, as one may that needs
// the API server.
func (c *chaos) restartKip() {
	running, err := shared.Running(localcluster.Kip)
	if err != nil {
		c.violated("looking for Kip: %v", err)
		return
	}
	if running || !c.takeDown(localcluster.Kip) {
		return
	}
	c.tell("Kip has ended by itself")
	c.restarts.Go(func() { c.bringUp(localcluster.Kip) })
}

// victim is one of the cells that were seen to live, and its machine.
func (c *chaos) victim(candidates map[string]livingCell) (livingCell, machine, error) {
	n := c.random.IntN(1 << 20)
	if len(candidates) == 0 {
		return livingCell{}, machine{}, errors.New("no such cell is known to live")
	}
	ids := slices.Sorted(maps.Keys(candidates))
	cell := candidates[ids[n%len(ids)]]
	m, err := findMachine(cell.instance)
	return cell, m, err
}

// hit writes down, before it is done, what is done to a cell.
func (c *chaos) hit(cell livingCell, h harm) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.strikes[cell.instance] = append(c.strikes[cell.instance], strike{time.Now(), h})
}

// killProgram kills a program of a cell. Its agent starts it again.
func killProgram(name string, h harm) func(*chaos, context.Context) (string, error) {
	return func(c *chaos, _ context.Context) (string, error) {
		cell, m, err := c.victim(c.living())
		if err != nil {
			return "", err
		}
		pids := m.processes(c.T, name)
		if len(pids) == 0 {
			return "", fmt.Errorf("%s has none", cell)
		}
		c.hit(cell, h)
		for _, pid := range pids {
			if err := syscall.Kill(pid, syscall.SIGKILL); err != nil {
				return "", err
			}
		}
		return cell.String(), nil
	}
}

// killAgent kills the first process of a machine, which is its end.
func (c *chaos) killAgent(context.Context) (string, error) {
	cell, m, err := c.victim(c.living())
	if err != nil {
		return "", err
	}
	c.hit(cell, lethal)
	return cell.String(), m.signal(syscall.SIGKILL)
}

// hangAgent stops an agent for a while, not long enough for its cell to be given
// up.
func (c *chaos) hangAgent(context.Context) (string, error) {
	cell, m, err := c.victim(c.living())
	hangs := c.between(time.Second, 20*time.Second)
	if err != nil {
		return "", err
	}
	c.hit(cell, harmless)
	if err := m.signal(syscall.SIGSTOP); err != nil {
		return "", err
	}
	c.restarts.Go(func() {
		time.Sleep(hangs)
		_ = m.signal(syscall.SIGCONT) // the machine may be gone
	})
	return fmt.Sprintf("%s, for %.1f s", cell, hangs.Seconds()), nil
}

// terminate is somebody with the account's password.
func (c *chaos) terminate(ctx context.Context) (string, error) {
	cell, _, err := c.victim(c.living())
	if err != nil {
		return "", err
	}
	c.hit(cell, lethal)
	_, err = shared.cloud.api.TerminateInstances(ctx, &ec2.TerminateInstancesInput{InstanceIds: []string{cell.instance}})
	return cell.String(), err
}

// takeSpot is the cloud, which wants a spot instance back.
func (c *chaos) takeSpot(ctx context.Context) (string, error) {
	spot := c.living()
	maps.DeleteFunc(spot, func(_ string, cell livingCell) bool { return !cell.spot })
	cell, _, err := c.victim(spot)
	notice := c.between(10*time.Second, 40*time.Second)
	if err != nil {
		return "", err
	}
	c.hit(cell, lethal)
	path := fmt.Sprintf("instances/%s/interrupt?after=%s", cell.instance, notice)
	return fmt.Sprintf("%s, in %.1f s", cell, notice.Seconds()), shared.cloud.command(ctx, http.MethodPost, path, nil, nil)
}

// deletePod is a user who wants another one.
func (c *chaos) deletePod(ctx context.Context) (string, error) {
	n := c.random.IntN(1 << 20)
	list, err := shared.kube.CoreV1().Pods(c.name).List(ctx, metav1.ListOptions{LabelSelector: replicated})
	if err != nil {
		return "", err
	}
	if len(list.Items) == 0 {
		return "", errors.New("there is none")
	}
	pod := list.Items[n%len(list.Items)]
	c.mu.Lock()
	c.deleted[pod.UID] = true
	c.mu.Unlock()
	return pod.Name, shared.kube.CoreV1().Pods(c.name).Delete(ctx, pod.Name, *metav1.NewPreconditionDeleteOptions(string(pod.UID)))
}
