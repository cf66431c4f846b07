package modeltest

import (
	"encoding/json"
	"net/http"
	"regexp"
	"slices"
	"strings"
)

// json checks an answer of a service that speaks JSON.
func (c *checker) json(name string, answer []byte, op operation) {
	if op.Output == nil {
		if text := strings.TrimSpace(string(answer)); text != "" && text != "{}" {
			c.report(name, "must be empty")
		}
		return
	}
	var v any
	if err := json.Unmarshal(answer, &v); err != nil {
		c.report(name, "%v", err)
		return
	}
	c.value(name, v, c.model.Shapes[op.Output.Shape])
}

// value checks a value that should have a shape.
func (c *checker) value(path string, v any, s *shape) {
	switch s.Type {
	case "structure":
		c.object(path, v, s)
	case "list":
		list, ok := v.([]any)
		if !ok {
			c.report(path, "is not a list")
		}
		for _, item := range list {
			c.value(path+"[]", item, c.model.Shapes[s.Member.Shape])
		}
	case "map":
		entries, ok := v.(map[string]any)
		if !ok {
			c.report(path, "is not a map")
		}
		for key, item := range entries {
			c.value(path+"["+key+"]", item, c.model.Shapes[s.Value.Shape])
		}
	case "boolean":
		if _, ok := v.(bool); !ok {
			c.report(path, "is not a truth value")
		}
	case "integer", "long", "float", "double", "timestamp":
		n, ok := v.(float64)
		if !ok || (s.Type == "integer" || s.Type == "long") && n != float64(int64(n)) {
			c.report(path, "%v is not a %s", v, s.Type)
		}
	default:
		text, ok := v.(string)
		if !ok || len(s.Enum) > 0 && !slices.Contains(s.Enum, text) {
			c.report(path, "%v is not a %s %v", v, s.Type, s.Enum)
		}
	}
}

func (c *checker) object(path string, v any, s *shape) {
	fields, ok := v.(map[string]any)
	if !ok {
		c.report(path, "is not an object")
	}
	known := map[string]member{}
	for name, m := range s.Members {
		known[m.name(name)] = m
	}
	for name, field := range fields {
		m, ok := known[name]
		if !ok {
			c.report(path, "%s is not in the model", name)
			continue
		}
		c.value(path+"."+name, field, c.model.Shapes[m.Shape])
	}
	for _, name := range s.Required {
		if _, ok := fields[s.Members[name].name(name)]; !ok {
			c.report(path, "%s is missing", name)
		}
	}
}

// restOperation finds the operation that a method and a path are of; "" if there is none.
func (m *Model) restOperation(req *http.Request) string {
	for name, op := range m.Operations {
		uri, _, _ := strings.Cut(op.HTTP.RequestURI, "?")
		var pattern strings.Builder
		for n, part := range regexp.MustCompile(`\{[^}]+\}`).Split(uri, -1) {
			if n > 0 {
				pattern.WriteString(`[^/]+`)
			}
			pattern.WriteString(regexp.QuoteMeta(part))
		}
		if op.HTTP.Method == req.Method && regexp.MustCompile("^"+pattern.String()+"$").MatchString(req.URL.Path) {
			return name
		}
	}
	return ""
}
