package query

import (
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"
)

// Decode fills the struct that into points to from a request's parameters. It understands what EC2's Query protocol
// does: nested structures with dots and lists with numbers from 1, as in TagSpecification.1.Tag.2.Key.
//
// A field's name in the request is that of its `query` tag, or the Go name. A tag that ends in ",required" makes a
// missing parameter an error. Fields are string, int, bool, time.Time, structs, pointers to these, and slices of all of
// them; a pointer stays nil when the request says nothing about it. Embedded structs count as part of the outer one.
//
// The errors are of type *Error: MissingParameter, InvalidParameterValue, and UnknownParameter for any parameter that
// no field asks for, since quietly ignoring what a caller asked for is the worst answer.
func Decode(form url.Values, into any) error {
	d := decoder{form: form, used: map[string]bool{"Action": true, "Version": true}}
	if _, err := d.structure("", reflect.ValueOf(into).Elem()); err != nil {
		return err
	}
	for _, key := range sortedKeys(form) {
		if !d.used[key] {
			return Errorf("UnknownParameter", "The parameter %s is not recognized", key)
		}
	}
	return nil
}

type decoder struct {
	form url.Values
	used map[string]bool
}

// structure decodes all fields of v, whose parameters begin with prefix, and answers whether any was present.
func (d *decoder) structure(prefix string, v reflect.Value) (present bool, err error) {
	t := v.Type()
	for i := range t.NumField() {
		f := t.Field(i)
		if f.Anonymous {
			any, err := d.structure(prefix, v.Field(i))
			if err != nil {
				return false, err
			}
			present = present || any
			continue
		}
		name, required := fieldName(f)
		found, err := d.value(prefix+name, v.Field(i))
		if err != nil {
			return false, err
		}
		if required && !found && (prefix == "" || present || d.any(prefix)) {
			return false, Errorf("MissingParameter", "The request must contain the parameter %s", prefix+name)
		}
		present = present || found
	}
	return present, nil
}

// fieldName is what a field is called in a request.
func fieldName(f reflect.StructField) (name string, required bool) {
	name, required = strings.CutSuffix(f.Tag.Get("query"), ",required")
	if name == "" {
		name = f.Name
	}
	return name, required
}

// value decodes the parameter called name, or those below it, into v and answers whether there was any.
func (d *decoder) value(name string, v reflect.Value) (found bool, err error) {
	switch {
	case v.Kind() == reflect.Pointer:
		target := reflect.New(v.Type().Elem())
		if found, err = d.value(name, target.Elem()); err == nil && found {
			v.Set(target)
		}
		return found, err
	case v.Kind() == reflect.Slice:
		return d.list(name, v)
	case v.Kind() == reflect.Struct && v.Type() != reflect.TypeFor[time.Time]():
		return d.structure(name+".", v)
	}
	if !d.form.Has(name) {
		return false, nil
	}
	d.used[name] = true
	return true, scalar(name, d.form.Get(name), v)
}

// list decodes name.1, name.2 … in the order of their numbers, which may have gaps.
func (d *decoder) list(name string, v reflect.Value) (found bool, err error) {
	for _, n := range d.indices(name) {
		item := reflect.New(v.Type().Elem()).Elem()
		if _, err := d.value(name+"."+strconv.Itoa(n), item); err != nil {
			return false, err
		}
		v.Set(reflect.Append(v, item))
		found = true
	}
	return found, nil
}

// indices returns the numbers that follow name in the request, in order.
func (d *decoder) indices(name string) []int {
	var out []int
	for key := range d.form {
		rest, ok := strings.CutPrefix(key, name+".")
		if !ok {
			continue
		}
		digits, _, _ := strings.Cut(rest, ".")
		if n, err := strconv.Atoi(digits); err == nil && n > 0 && digits == strconv.Itoa(n) && !slices.Contains(out, n) {
			out = append(out, n)
		}
	}
	slices.Sort(out)
	return out
}

// any answers whether a parameter begins with prefix.
func (d *decoder) any(prefix string) bool {
	for key := range d.form {
		if strings.HasPrefix(key, prefix) {
			return true
		}
	}
	return false
}

// scalar parses one parameter.
func scalar(name, text string, v reflect.Value) error {
	invalid := func(kind string) error {
		return Errorf("InvalidParameterValue", "Value (%s) for parameter %s is invalid. It must be %s", text, name, kind)
	}
	if v.Type() == reflect.TypeFor[time.Time]() {
		t, err := time.Parse(time.RFC3339, text)
		if err != nil {
			return invalid("a time such as 2006-01-02T15:04:05Z")
		}
		v.Set(reflect.ValueOf(t))
		return nil
	}
	switch v.Kind() {
	case reflect.String:
		v.SetString(text)
	case reflect.Bool:
		b, err := strconv.ParseBool(strings.ToLower(text))
		if err != nil {
			return invalid("true or false")
		}
		v.SetBool(b)
	case reflect.Int:
		n, err := strconv.ParseInt(text, 10, 32)
		if err != nil {
			return invalid("an integer")
		}
		v.SetInt(n)
	default:
		panic("query: a request structure has a field of type " + v.Type().String())
	}
	return nil
}

func sortedKeys(form url.Values) []string {
	keys := make([]string, 0, len(form))
	for key := range form {
		keys = append(keys, key)
	}
	slices.Sort(keys)
	return keys
}
