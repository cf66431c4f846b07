package config

import (
	"os"
	"reflect"
	"strings"
	"testing"

	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
)

// documentation is the page that the error about an unknown key names.
const documentation = "../../docs/configuration.md"

// Every key of provider.yaml is documented by its whole path, as `cells.nametag`
// or `cells.registryMirrors[].hosts`.
func TestKeysAreDocumented(t *testing.T) {
	page, err := os.ReadFile(documentation)
	if err != nil {
		t.Fatal(err)
	}
	keys := keysOf(t, "", reflect.TypeFor[Config]())
	if len(keys) < 25 {
		t.Fatalf("only %d keys were found: %v", len(keys), keys)
	}
	for _, key := range keys {
		if !strings.Contains(string(page), "`"+key+"`") {
			t.Errorf("%s does not explain the key `%s`", documentation, key)
		}
	}
}

// leaves are structs that are written as one value.
var leaves = map[reflect.Type]bool{
	reflect.TypeFor[resource.Quantity](): true,
	reflect.TypeFor[metav1.Duration]():   true,
}

// keysOf returns the paths of all keys that hold a value.
func keysOf(t *testing.T, path string, typ reflect.Type) []string {
	t.Helper()
	if typ.Kind() == reflect.Pointer {
		typ = typ.Elem()
	}
	switch {
	case typ.Kind() == reflect.Slice && typ.Elem().Kind() == reflect.Struct:
		return keysOf(t, path+"[]", typ.Elem())
	case typ.Kind() != reflect.Struct || leaves[typ]:
		return []string{path}
	}
	var keys []string
	for i := range typ.NumField() {
		field := typ.Field(i)
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		if name == "" || name == "-" {
			t.Fatalf("%s.%s has no JSON name", typ, field.Name)
		}
		if path != "" {
			name = path + "." + name
		}
		keys = append(keys, keysOf(t, name, field.Type)...)
	}
	return keys
}
