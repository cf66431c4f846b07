package config

import (
	"fmt"

	"k8s.io/apimachinery/pkg/api/resource"

	"github.com/elotl/kip/v2/internal/cell/limits"
)

func (l *Limits) validate(bad func(key, format string, args ...any)) {
	const key = "cells.limits"
	notNegative := func(key string, instances *int32, usd *resource.Quantity) {
		if instances != nil && *instances < 0 {
			bad(key+".instances", "%d is negative", *instances)
		}
		if usd != nil && usd.Sign() < 0 {
			bad(key+".hourlyUSD", "%s is negative", usd)
		}
	}
	notNegative(key, l.Instances, l.HourlyUSD)
	if n := l.LaunchesPerMinute; n != nil && *n < 1 {
		bad(key+".launchesPerMinute", "%d is less than 1; instances: 0 keeps everything from being launched", *n)
	}
	seen := map[string]bool{}
	for i, n := range l.Namespaces {
		key := fmt.Sprintf("%s.namespaces[%d]", key, i)
		switch {
		case n.Name == "":
			bad(key+".name", "name a namespace, or * for each that is not named")
		case seen[n.Name]:
			bad(key+".name", "%s has limits already", n.Name)
		}
		seen[n.Name] = true
		notNegative(key, n.Instances, n.HourlyUSD)
	}
}

// Launches are the limits as they are kept.
func (l *Limits) Launches() limits.Limits {
	out := limits.Limits{Caps: caps(l.Instances, l.HourlyUSD)}
	if n := l.LaunchesPerMinute; n != nil {
		out.LaunchesPerMinute = new(int(*n))
	}
	if len(l.Namespaces) > 0 {
		out.Namespaces = make(map[string]limits.Caps, len(l.Namespaces))
	}
	for _, n := range l.Namespaces {
		out.Namespaces[n.Name] = caps(n.Instances, n.HourlyUSD)
	}
	return out
}

func caps(instances *int32, usd *resource.Quantity) (c limits.Caps) {
	if instances != nil {
		c.Instances = new(int(*instances))
	}
	if usd != nil {
		c.HourlyMicroUSD = new(usd.ScaledValue(resource.Micro))
	}
	return c
}
