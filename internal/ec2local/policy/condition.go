package policy

import (
	"fmt"
	"maps"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"
)

// condition is one operator applied to one key.
type condition struct {
	key    string // lower-case
	values []string
	op     operator
	// forAll and forAny judge each value that the request has by itself.
	forAll, forAny bool
	// ifExists makes a condition hold for requests without the key.
	ifExists bool
	// null is the operator that asks whether there is a key.
	null bool
}

// operator compares what a request has with what a policy says.
type operator struct {
	// equal compares one value of the request with one of the policy.
	equal func(have, want string) bool
	// not turns the answer around: none of the policy's values may be equal.
	not bool
	// valid refuses values that a policy must not have.
	valid func(want string) error
}

var operators = func() map[string]operator {
	out := map[string]operator{}
	both := func(name, negated string, equal func(have, want string) bool, valid func(string) error) {
		out[name] = operator{equal: equal, valid: valid}
		out[negated] = operator{equal: equal, valid: valid, not: true}
	}
	any := func(string) error { return nil }
	both("StringEquals", "StringNotEquals", func(have, want string) bool { return have == want }, any)
	both("StringEqualsIgnoreCase", "StringNotEqualsIgnoreCase", strings.EqualFold, any)
	like := func(have, want string) bool { return glob(want, have) }
	both("StringLike", "StringNotLike", like, any)

	isARN := func(want string) error { _, err := parseARN(want); return err }
	arnLike := func(have, want string) bool {
		a, err := parseARN(want)
		return err == nil && a.matches(have)
	}
	// In conditions the two are the same.
	both("ArnEquals", "ArnNotEquals", arnLike, isARN)
	both("ArnLike", "ArnNotLike", arnLike, isARN)

	out["Bool"] = operator{equal: strings.EqualFold, valid: isBool}

	numbers := compare(func(s string) (float64, error) { return strconv.ParseFloat(s, 64) })
	dates := compare(parseDate)
	for kind, c := range map[string]comparison{"Numeric": numbers, "Date": dates} {
		both(kind+"Equals", kind+"NotEquals", c.when(func(n int) bool { return n == 0 }), c.valid)
		out[kind+"LessThan"] = operator{equal: c.when(func(n int) bool { return n < 0 }), valid: c.valid}
		out[kind+"LessThanEquals"] = operator{equal: c.when(func(n int) bool { return n <= 0 }), valid: c.valid}
		out[kind+"GreaterThan"] = operator{equal: c.when(func(n int) bool { return n > 0 }), valid: c.valid}
		out[kind+"GreaterThanEquals"] = operator{equal: c.when(func(n int) bool { return n >= 0 }), valid: c.valid}
	}

	inRange := func(have, want string) bool {
		addr, err := netip.ParseAddr(have)
		p, bad := parseRange(want)
		return err == nil && bad == nil && p.Contains(addr)
	}
	both("IpAddress", "NotIpAddress", inRange, func(want string) error { _, err := parseRange(want); return err })
	return out
}()

// comparison orders the values of one kind.
type comparison struct {
	compare func(have, want string) (int, error)
	valid   func(string) error
}

func compare[T float64 | int64](parse func(string) (T, error)) comparison {
	return comparison{
		compare: func(have, want string) (int, error) {
			h, err := parse(have)
			if err != nil {
				return 0, err
			}
			w, err := parse(want)
			switch {
			case h < w:
				return -1, err
			case h > w:
				return 1, err
			}
			return 0, err
		},
		valid: func(s string) error { _, err := parse(s); return err },
	}
}

func (c comparison) when(holds func(int) bool) func(have, want string) bool {
	return func(have, want string) bool {
		n, err := c.compare(have, want)
		return err == nil && holds(n)
	}
}

// parseDate reads a time as ISO 8601 or as seconds since 1970.
func parseDate(s string) (int64, error) {
	if n, err := strconv.ParseInt(s, 10, 64); err == nil {
		return n, nil
	}
	t, err := time.Parse(time.RFC3339, s)
	return t.Unix(), err
}

func parseRange(s string) (netip.Prefix, error) {
	if addr, err := netip.ParseAddr(s); err == nil {
		return netip.PrefixFrom(addr, addr.BitLen()), nil
	}
	return netip.ParsePrefix(s)
}

func isBool(s string) error {
	if !strings.EqualFold(s, "true") && !strings.EqualFold(s, "false") {
		return fmt.Errorf("%q is neither true nor false", s)
	}
	return nil
}

// parseConditions reads a statement's conditions.
func parseConditions(in map[string]map[string]texts, known func(key string) bool) ([]condition, error) {
	var out []condition
	for _, name := range slices.Sorted(maps.Keys(in)) {
		base, err := parseOperator(name)
		if err != nil {
			return nil, err
		}
		for _, key := range slices.Sorted(maps.Keys(in[name])) {
			c := base
			c.key, c.values = strings.ToLower(key), in[name][key]
			if !known(key) {
				return nil, fmt.Errorf("the condition key %q is not known here", key)
			}
			if len(c.values) == 0 {
				return nil, fmt.Errorf("the condition key %q has no value", key)
			}
			for _, value := range c.values {
				if err := noVariables(value); err != nil {
					return nil, err
				}
				if err := c.op.valid(value); err != nil {
					return nil, fmt.Errorf("the value of %s %q: %w", name, key, err)
				}
			}
			out = append(out, c)
		}
	}
	return out, nil
}

// parseOperator reads an operator with what may be put before and behind it.
func parseOperator(name string) (condition, error) {
	var c condition
	var ok bool
	rest, forAll := strings.CutPrefix(name, "ForAllValues:")
	rest, forAny := strings.CutPrefix(rest, "ForAnyValue:")
	if c.forAll, c.forAny = forAll, forAny; forAll && forAny {
		return c, fmt.Errorf("the condition operator %q is not known here", name)
	}
	if rest == "Null" {
		c.null, c.op.valid = true, isBool
		return c, nil
	}
	rest, c.ifExists = strings.CutSuffix(rest, "IfExists")
	if c.op, ok = operators[rest]; !ok {
		return c, fmt.Errorf("the condition operator %q is not known here", name)
	}
	return c, nil
}

// holds tells whether a request fulfils the condition.
func (c *condition) holds(keys Keys) bool {
	have, ok := keys[c.key]
	switch {
	case c.null:
		return slices.ContainsFunc(c.values, func(want string) bool { return strings.EqualFold(want, "true") == !ok })
	case !ok && c.ifExists:
		return true
	case c.forAll:
		return !slices.ContainsFunc(have, func(h string) bool { return !c.fulfils(h) })
	case c.forAny:
		return slices.ContainsFunc(have, c.fulfils)
	case !ok:
		// Not to be equal to something is easy for what does not exist.
		return c.op.not
	case c.op.not:
		return !slices.ContainsFunc(have, func(h string) bool { return !c.fulfils(h) })
	}
	return slices.ContainsFunc(have, c.fulfils)
}

// fulfils judges one value of a request: one of the policy's must be equal, or none of them for negated operators.
func (c *condition) fulfils(have string) bool {
	equal := slices.ContainsFunc(c.values, func(want string) bool { return c.op.equal(have, want) })
	return equal != c.op.not
}
