package conformance

import (
	_ "embed"
	"fmt"
	"slices"

	"sigs.k8s.io/yaml"
)

//go:embed exclusions.yaml
var exclusionsYAML []byte

// An Exclusion is a reason for which specs cannot run here.
type Exclusion struct {
	Reason string   `json:"reason"`
	Specs  []string `json:"specs"`
}

// Exclusions returns what is left out of a run.
func Exclusions() ([]Exclusion, error) {
	var all []Exclusion
	if err := yaml.UnmarshalStrict(exclusionsYAML, &all); err != nil {
		return nil, fmt.Errorf("reading exclusions.yaml: %w", err)
	}
	return all, nil
}

// exclude returns the specs that run. Every name of an exclusion must be a
// spec's: one that is not excludes nothing, or its spec has another name now.
func exclude(specs []Spec, exclusions []Exclusion) ([]Spec, error) {
	excluded := map[string]bool{}
	for _, e := range exclusions {
		if e.Reason == "" {
			return nil, fmt.Errorf("excluded without a reason: %q", e.Specs)
		}
		for _, name := range e.Specs {
			if excluded[name] {
				return nil, fmt.Errorf("excluded twice: %q", name)
			}
			if !slices.ContainsFunc(specs, func(s Spec) bool { return s.Name == name }) {
				return nil, fmt.Errorf("excluded, but there is no such spec: %q", name)
			}
			excluded[name] = true
		}
	}
	return slices.DeleteFunc(slices.Clone(specs), func(s Spec) bool { return excluded[s.Name] }), nil
}
