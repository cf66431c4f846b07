package policy

import (
	"fmt"
	"strings"
)

// glob tells whether s matches a pattern in which * stands for any characters and ? for one.
func glob(pattern, s string) bool {
	p, t := []rune(pattern), []rune(s)
	star, mark := -1, 0
	i, j := 0, 0
	for j < len(t) {
		switch {
		case i < len(p) && p[i] == '*':
			star, mark = i, j
			i++
		case i < len(p) && (p[i] == '?' || p[i] == t[j]):
			i++
			j++
		case star >= 0:
			// Let the last * take one more character.
			mark++
			i, j = star+1, mark
		default:
			return false
		}
	}
	for i < len(p) && p[i] == '*' {
		i++
	}
	return i == len(p)
}

// arn is an ARN, or a pattern of ARNs, in its six parts: a wildcard never reaches over a colon of the first five. The
// pattern * alone is empty.
type arn []string

const arnParts = 6

func parseARN(s string) (arn, error) {
	if s == "*" {
		return nil, nil
	}
	parts := strings.SplitN(s, ":", arnParts)
	if len(parts) != arnParts || parts[0] != "arn" {
		return nil, fmt.Errorf("the resource %q is neither * nor an ARN", s)
	}
	if err := noVariables(s); err != nil {
		return nil, err
	}
	return parts, nil
}

func parseARNs(list []string) ([]arn, error) {
	var out []arn
	for _, s := range list {
		a, err := parseARN(s)
		if err != nil {
			return nil, err
		}
		out = append(out, a)
	}
	return out, nil
}

// matches tells whether s is an ARN that the pattern covers. The "resource" of calls that have none is *, which only
// the pattern * covers.
func (a arn) matches(s string) bool {
	if a == nil {
		return true
	}
	parts := strings.SplitN(s, ":", arnParts)
	if len(parts) != arnParts {
		return false
	}
	for n, pattern := range a {
		if !glob(pattern, parts[n]) {
			return false
		}
	}
	return true
}

// noVariables refuses policy variables such as ${aws:username}, which nothing here replaces.
func noVariables(s string) error {
	if strings.Contains(s, "${") {
		return fmt.Errorf("policy variables are not understood here: %q", s)
	}
	return nil
}
