package install

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

func page(t *testing.T) []Block {
	t.Helper()
	blocks, err := Blocks(read(t, "docs/install-eks.md"))
	if err != nil {
		t.Fatal(err)
	}
	return blocks
}

func TestBlocks(t *testing.T) {
	got, err := Blocks("a\n```bash\nb\nc\n```\n```\nd\n```\n```bash values\ne\n```\n")
	want := []Block{{2, "", "b\nc\n"}, {9, "values", "e\n"}}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := Blocks("```bash\nb\n"); err == nil {
		t.Error("a block without an end")
	}
}

var (
	assigned = regexp.MustCompile(`\b([A-Z][A-Z0-9_]+)=`)
	used     = regexp.MustCompile(`\$\{?([A-Z][A-Z0-9_]+)`)
	file     = regexp.MustCompile(`\b(kustomize/[a-z0-9/.-]+)`)
)

// The page's commands can be run from top to bottom: they are shell, what they
// use was set before, and the files that they name are there.
func TestPageCanBeFollowed(t *testing.T) {
	set := map[string]bool{"RANDOM": true}
	for _, b := range page(t) {
		check := exec.CommandContext(t.Context(), "bash", "-n")
		check.Stdin = strings.NewReader(b.Commands)
		if out, err := check.CombinedOutput(); err != nil {
			t.Errorf("line %d: %v\n%s", b.Line, err, out)
		}
		for line := range strings.Lines(b.Commands) {
			for _, m := range used.FindAllStringSubmatch(line, -1) {
				if !set[m[1]] {
					t.Errorf("line %d uses %s, which no command before it sets", b.Line, m[1])
				}
			}
			for _, m := range assigned.FindAllStringSubmatch(line, -1) {
				set[m[1]] = true
			}
		}
		for _, m := range file.FindAllStringSubmatch(b.Commands, -1) {
			if _, err := os.Stat(filepath.Join(root, m[1])); err != nil {
				t.Errorf("line %d names %s, which is not there", b.Line, m[1])
			}
		}
	}
}

// TestPageFillsInThePolicies: a variable that envsubst is not told of would stay
// in the policy.
func TestPageFillsInThePolicies(t *testing.T) {
	fill := regexp.MustCompile(`envsubst '([^']*)' <(\S+\.json)`)
	filled := 0
	for _, b := range page(t) {
		for _, m := range fill.FindAllStringSubmatch(b.Commands, -1) {
			filled++
			names := strings.Fields(strings.ReplaceAll(m[1], "$", ""))
			var in []string
			for _, v := range used.FindAllStringSubmatch(read(t, m[2]), -1) {
				in = append(in, v[1])
			}
			slices.Sort(in)
			slices.Sort(names)
			if in = slices.Compact(in); !slices.Equal(names, in) {
				t.Errorf("line %d fills in %v, and %s has %v", b.Line, names, m[2], in)
			}
		}
	}
	if filled < 2 {
		t.Errorf("only %d policies are filled in", filled)
	}
}

// The variables that users know, those that the script explains and those in
// the page's table are the same.
func TestVariablesAreExplained(t *testing.T) {
	text := read(t, "docs/install-eks.md")
	help, stderr, code := script(t, programs(t, nil), "deploy.sh", nil, "--help")
	if code != 0 {
		t.Fatal(stderr)
	}
	known := []string{
		"CLUSTER_NAME", "USE_REGION", "IMAGE_TAG", "KIP_SERVICE_ACCOUNT_ROLE_ARN", "NFS_VOLUME_ENDPOINT", "NAMESPACE", "IMAGE_REGISTRY",
		"CELL_INSTANCE_PROFILE_ARN", "VPC_ID", "KIP_CELL_SG",
	}
	var explained []string
	for _, m := range regexp.MustCompile(`(?m)^  ([A-Z][A-Z_]+)  `).FindAllStringSubmatch(help, -1) {
		explained = append(explained, m[1])
	}
	for _, name := range known {
		if !slices.Contains(explained, name) {
			t.Errorf("deploy.sh --help does not explain %s", name)
		}
	}
	rows := regexp.MustCompile("(?m)^\\| `.*$").FindAllString(text, -1)
	for _, name := range explained {
		if !slices.ContainsFunc(rows, func(row string) bool { return strings.Contains(strings.SplitN(row, "|", 3)[1], "`"+name+"`") }) {
			t.Errorf("the page's table does not explain %s", name)
		}
	}
	for _, name := range []string{"EFS_MT_SG", "EFS_FS_ID", "AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_REGION", "AWS_ACCOUNT_ID", "OIDC_PROVIDER", "KIP_SERVICE_ACCOUNT_NAME"} {
		if !strings.Contains(text, name) {
			t.Errorf("the page does not speak of %s", name)
		}
	}
}
