package main

import (
	"context"

	"github.com/elotl/kip/v2/internal/localcluster"
)

// plainNode is the machine of the cluster's ordinary node, to compare with.
func (b *bench) plainNode(ctx context.Context) (machine, error) {
	id, err := b.NodeInstance(ctx)
	if err != nil {
		return machine{}, err
	}
	return b.machine(id)
}

const plainName = localcluster.OrdinaryNode
