package ec2api

import (
	"regexp"
	"strings"

	"github.com/elotl/kip/v2/internal/ec2local/cloud"
	"github.com/elotl/kip/v2/internal/ec2local/query"
)

// filter is a condition of a Describe request: one of the values must match. All filters of a request must hold.
type filter struct {
	Name   string   `query:"Name,required"`
	Values []string `query:"Value,required"`
}

// fields are what resources of one kind can be filtered by: each yields a resource's values.
type fields[T any] map[string]func(T) []string

// one makes a field of what yields a single value.
func one[T any](f func(T) string) func(T) []string {
	return func(r T) []string { return []string{f(r)} }
}

// constant makes a field that is the same for all resources of a kind.
func constant[T any](values ...string) func(T) []string {
	return func(T) []string { return values }
}

// yesNo is a truth value as filters have it.
func yesNo(b bool) string {
	if b {
		return "true"
	}
	return "false"
}

// selectBy returns the resources that all filters hold for. tags yields a resource's tags, for the filters tag:KEY,
// tag-key and tag-value.
func selectBy[T any](resources []T, filters []filter, by fields[T], tags func(T) cloud.Tags) ([]T, error) {
	for _, f := range filters {
		values, err := fieldOf(f.Name, by, tags)
		if err != nil {
			return nil, err
		}
		match := matcher(f.Values)
		var rest []T
		for _, r := range resources {
			if match(values(r)) {
				rest = append(rest, r)
			}
		}
		resources = rest
	}
	return resources, nil
}

func fieldOf[T any](name string, by fields[T], tags func(T) cloud.Tags) (func(T) []string, error) {
	if values, ok := by[name]; ok {
		return values, nil
	}
	if tags != nil {
		if key, ok := strings.CutPrefix(name, "tag:"); ok {
			return func(r T) []string {
				if value, ok := tags(r)[key]; ok {
					return []string{value}
				}
				return nil
			}, nil
		}
		switch name {
		case "tag-key":
			return func(r T) []string { return sortedKeys(tags(r)) }, nil
		case "tag-value":
			return func(r T) []string {
				var out []string
				for _, value := range tags(r) {
					out = append(out, value)
				}
				return out
			}, nil
		}
	}
	return nil, query.Errorf("InvalidParameterValue", "The filter '%s' is invalid", name)
}

// matcher answers whether one of a resource's values matches one of the patterns, where * stands for any characters, ?
// for one, and a backslash makes the next one plain.
func matcher(patterns []string) func([]string) bool {
	plain := map[string]bool{}
	var wild []*regexp.Regexp
	for _, p := range patterns {
		if strings.ContainsAny(p, `*?\`) {
			wild = append(wild, wildcard(p))
		} else {
			plain[p] = true
		}
	}
	return func(values []string) bool {
		for _, v := range values {
			if plain[v] {
				return true
			}
			for _, w := range wild {
				if w.MatchString(v) {
					return true
				}
			}
		}
		return false
	}
}

func wildcard(pattern string) *regexp.Regexp {
	var b strings.Builder
	b.WriteString(`(?s)\A`)
	escaped := false
	for _, r := range pattern {
		switch {
		case escaped:
			b.WriteString(regexp.QuoteMeta(string(r)))
			escaped = false
		case r == '\\':
			escaped = true
		case r == '*':
			b.WriteString(`.*`)
		case r == '?':
			b.WriteString(`.`)
		default:
			b.WriteString(regexp.QuoteMeta(string(r)))
		}
	}
	b.WriteString(`\z`)
	return regexp.MustCompile(b.String())
}
