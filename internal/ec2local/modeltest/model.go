// Package modeltest checks answers of EC2 and of the services beside it against AWS's own descriptions of their APIs, for
// tests.
//
// SDKs skip what they do not know and default what is missing, so an answer that they accept may still be wrong. Here
// every element must be one that the model knows at that place, once, with a value of its type. The model comes with
// Debian's awscli or python3-botocore; nothing of it is part of this project.
package modeltest

import (
	"bytes"
	"compress/gzip"
	"encoding/json"
	"encoding/xml"
	"fmt"
	"io"
	"os"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
)

const namespace = "http://ec2.amazonaws.com/doc/2016-11-15/"

// Model is a description of a service's API.
type Model struct {
	// File is where it was read.
	File string

	Metadata   struct{ Protocol, XMLNamespace string }
	Operations map[string]operation
	Shapes     map[string]*shape
}

type operation struct {
	HTTP struct {
		Method, RequestURI string
		ResponseCode       int
	}
	Output *struct{ Shape, ResultWrapper string }
}

type shape struct {
	Type      string
	Members   map[string]member
	Member    member
	Key       member
	Value     member
	Required  []string
	Enum      []string
	Flattened bool
}

type member struct{ Shape, LocationName string }

func (m member) name(otherwise string) string {
	if m.LocationName != "" {
		return m.LocationName
	}
	return otherwise
}

// places are where Debian's packages keep a model.
var places = []string{
	"/usr/lib/python3/dist-packages/botocore/data/%s/service-2.json",
	"/usr/lib/python3/dist-packages/botocore/data/%s/service-2.json.gz",
	"/usr/lib/python3/dist-packages/awscli/botocore/data/%s/service-2.json",
}

// loaders read the installed models, each once in a process, by the name that requests to the service are signed for.
var loaders = func() map[string]func() (*Model, error) {
	out := map[string]func() (*Model, error){}
	for service, folder := range map[string]string{
		"ec2": "ec2/2016-11-15", "iam": "iam/2010-05-08", "sts": "sts/2011-06-15", "ssm": "ssm/2014-11-06", "ecr": "ecr/2015-09-21",
		"aws-marketplace": "meteringmarketplace/2016-01-14", "elasticfilesystem": "efs/2015-02-01", "eks": "eks/2017-11-01", "ebs": "ebs/2019-11-02",
	} {
		out[service] = sync.OnceValues(func() (*Model, error) { return load(folder) })
	}
	return out
}()

// Load returns the installed model of a service. Without one the error wraps fs.ErrNotExist.
func Load(service string) (*Model, error) {
	read, ok := loaders[service]
	if !ok {
		return nil, fmt.Errorf("no model of a service %q is known", service)
	}
	return read()
}

func load(folder string) (*Model, error) {
	var err error
	for _, place := range places {
		file := fmt.Sprintf(place, folder)
		var raw []byte
		if raw, err = os.ReadFile(file); err != nil {
			continue
		}
		if strings.HasSuffix(file, ".gz") {
			if raw, err = gunzip(raw); err != nil {
				return nil, fmt.Errorf("reading %s: %w", file, err)
			}
		}
		m := &Model{File: file}
		if err := json.Unmarshal(raw, m); err != nil {
			return nil, fmt.Errorf("reading %s: %w", file, err)
		}
		return m, nil
	}
	return nil, fmt.Errorf("finding an API model (packages awscli or python3-botocore): %w", err)
}

func gunzip(raw []byte) ([]byte, error) {
	r, err := gzip.NewReader(bytes.NewReader(raw))
	if err != nil {
		return nil, err
	}
	return io.ReadAll(r)
}

// element is an XML element.
type element struct {
	XMLName  xml.Name
	Text     string    `xml:",chardata"`
	Children []element `xml:",any"`
}

// Check returns what is wrong with an operation's answer.
func (m *Model) Check(operation string, answer []byte) []string {
	op, ok := m.Operations[operation]
	if !ok {
		return []string{operation + ": no such operation"}
	}
	c := checker{model: m}
	switch m.Metadata.Protocol {
	case "json", "rest-json":
		c.json(operation, answer, op)
		return c.found
	}
	var root element
	if err := xml.Unmarshal(answer, &root); err != nil {
		return []string{fmt.Sprintf("%s: %v", operation, err)}
	}
	if m.Metadata.Protocol == "query" {
		c.query(operation, root, op)
		return c.found
	}
	if root.XMLName.Local != operation+"Response" || root.XMLName.Space != namespace {
		c.report(operation, "the root is %s of %q", root.XMLName.Local, root.XMLName.Space)
	}
	id := slices.IndexFunc(root.Children, func(e element) bool { return e.XMLName.Local == "requestId" })
	if id < 0 {
		c.report(operation, "no requestId")
	} else {
		root.Children = slices.Delete(root.Children, id, id+1)
	}
	if op.Output == nil {
		if len(root.Children) != 1 || root.Children[0].XMLName.Local != "return" || root.Children[0].Text != "true" {
			c.report(operation, "must be <return>true</return>")
		}
		return c.found
	}
	c.check(operation, root, m.Shapes[op.Output.Shape])
	return c.found
}

type checker struct {
	model *Model
	found []string
}

// item is what items of lists are called unless the model says otherwise.
func (c *checker) item() string {
	if c.model.Metadata.Protocol == "query" {
		return "member"
	}
	return "item"
}

// query checks an answer of a service that speaks the Query protocol as all but EC2 do.
func (c *checker) query(name string, root element, op operation) {
	if root.XMLName.Local != name+"Response" || root.XMLName.Space != c.model.Metadata.XMLNamespace {
		c.report(name, "the root is %s of %q", root.XMLName.Local, root.XMLName.Space)
	}
	want := []string{"ResponseMetadata"}
	if op.Output != nil {
		want = []string{op.Output.ResultWrapper, "ResponseMetadata"}
	}
	var got []string
	for _, child := range root.Children {
		got = append(got, child.XMLName.Local)
	}
	if !slices.Equal(got, want) {
		c.report(name, "has %v instead of %v", got, want)
		return
	}
	last := root.Children[len(root.Children)-1]
	if len(last.Children) != 1 || last.Children[0].XMLName.Local != "RequestId" || last.Children[0].Text == "" {
		c.report(name, "no RequestId")
	}
	if op.Output != nil {
		c.check(name, root.Children[0], c.model.Shapes[op.Output.Shape])
	}
}

func (c *checker) report(path, format string, args ...any) {
	c.found = append(c.found, path+": "+fmt.Sprintf(format, args...))
}

// check checks an element that should have a shape.
func (c *checker) check(path string, e element, s *shape) {
	switch s.Type {
	case "structure":
		c.structure(path, e, s)
	case "list":
		if strings.TrimSpace(e.Text) != "" {
			c.report(path, "text in a list")
		}
		for _, item := range e.Children {
			if name := s.Member.name(c.item()); item.XMLName.Local != name {
				c.report(path, "an item is called %s instead of %s", item.XMLName.Local, name)
				continue
			}
			c.check(path+"[]", item, c.model.Shapes[s.Member.Shape])
		}
	default:
		if len(e.Children) > 0 {
			c.report(path, "elements in a %s", s.Type)
		}
		if !scalarOK(s, e.Text) {
			c.report(path, "%q is not a %s %v", e.Text, s.Type, s.Enum)
		}
	}
}

func (c *checker) structure(path string, e element, s *shape) {
	known := map[string]member{}
	for name, m := range s.Members {
		known[m.name(name)] = m
	}
	seen := map[string]bool{}
	for _, child := range e.Children {
		name := child.XMLName.Local
		m, ok := known[name]
		if !ok {
			c.report(path, "%s is not in the model", name)
			continue
		}
		of := c.model.Shapes[m.Shape]
		if seen[name] && !of.Flattened {
			c.report(path, "%s is there twice", name)
		}
		seen[name] = true
		c.check(path+"."+name, child, of)
	}
	for _, name := range s.Required {
		if !seen[s.Members[name].name(name)] {
			c.report(path, "%s is missing", name)
		}
	}
	if strings.TrimSpace(e.Text) != "" {
		c.report(path, "text in a structure")
	}
}

var timestamp = regexp.MustCompile(`^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(\.\d+)?Z$`)

func scalarOK(s *shape, text string) bool {
	switch s.Type {
	case "boolean":
		return text == "true" || text == "false"
	case "integer":
		_, err := strconv.ParseInt(text, 10, 32)
		return err == nil
	case "long":
		_, err := strconv.ParseInt(text, 10, 64)
		return err == nil
	case "float", "double":
		_, err := strconv.ParseFloat(text, 64)
		return err == nil
	case "timestamp":
		return timestamp.MatchString(text)
	case "string":
		return len(s.Enum) == 0 || slices.Contains(s.Enum, text)
	}
	return true
}
