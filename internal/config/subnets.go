package config

import (
	"fmt"
	"slices"
	"strings"
)

// Subnets says which subnets cells may be launched in: those with one of the
// IDs, or those that have all of the tags, each with one of its values.
type Subnets struct {
	IDs  []string
	Tags map[string][]string
}

// ParseSubnets reads cloud.aws.subnetID. IDs are separated by commas or white
// space, tags ("tag:KEY=VALUE") by commas or lines, because their values may
// hold spaces.
func ParseSubnets(text string) (Subnets, error) {
	if !strings.Contains(text, "tag:") {
		return Subnets{IDs: Fields(text)}, nil
	}
	s := Subnets{Tags: map[string][]string{}}
	for entry := range strings.FieldsFuncSeq(text, func(r rune) bool { return r == ',' || r == '\n' }) {
		if entry = strings.TrimSpace(entry); entry == "" {
			continue
		}
		tag, isTag := strings.CutPrefix(entry, "tag:")
		if !isTag {
			return Subnets{}, fmt.Errorf("%q is not a tag: give subnet IDs or tags, not both", entry)
		}
		key, value, ok := strings.Cut(tag, "=")
		if !ok || key == "" || value == "" {
			return Subnets{}, fmt.Errorf("%q is not of the form tag:KEY=VALUE", entry)
		}
		if !slices.Contains(s.Tags[key], value) {
			s.Tags[key] = append(s.Tags[key], value)
		}
	}
	return s, nil
}

// Fields splits a list whose entries are separated by commas or white space.
func Fields(s string) []string {
	return strings.FieldsFunc(s, func(r rune) bool { return r == ',' || r == ' ' || r == '\n' || r == '\t' })
}
