package userdata

import (
	"bytes"
	"fmt"
	"os/exec"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

const mimeFile = "MIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=\"//\"\n\n" +
	"--//\nContent-Type: text/cloud-config\n\n#cloud-config\nhostname: a\n\n" +
	"--//\nContent-Type: text/x-shellscript\n\n#!/bin/sh\necho a\n--//--\n"

func TestBesideCloudInit(t *testing.T) {
	for name, tc := range map[string]struct {
		reason string
		file   string
		want   []string // as Python's mail library, which cloud-init uses, reads the parts
	}{
		"config":   {reason: "the ordinary case", file: "#cloud-config\nhostname: a\n", want: []string{"text/cloud-config: #cloud-config"}},
		"script":   {reason: "run late in the boot", file: "#!/bin/sh\necho a\n", want: []string{"text/x-shellscript: #!/bin/sh"}},
		"umlauts":  {reason: "whoever decodes it gets the same bytes", file: "#cloud-config\nhostname: grün\n", want: []string{"text/cloud-config: #cloud-config"}},
		"parts":    {reason: "parts within a part", file: mimeFile, want: []string{"text/cloud-config: #cloud-config", "text/x-shellscript: #!/bin/sh"}},
		"like one": {reason: "a boundary in the text ends no part", file: "#!/bin/sh\n--kip-\n--\n", want: []string{"text/x-shellscript: #!/bin/sh"}},
	} {
		t.Run(name, func(t *testing.T) {
			extra, err := ParseCloudInit([]byte(tc.file))
			if err != nil {
				t.Fatal(err)
			}
			doc := document(t)
			data, err := Encode(doc, extra)
			if err != nil {
				t.Fatal(err)
			}
			if again, err := Encode(doc, extra); err != nil || !bytes.Equal(data, again) {
				t.Errorf("a repeated launch would be another request: %v", err)
			}
			got, err := Decode(data)
			if err != nil {
				t.Fatalf("%s: %v", tc.reason, err)
			}
			if diff := cmp.Diff(doc, got, comparePrefixes); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			want := append([]string{partType + `: {"apiVersion":"kip.elotl.co/v1"`}, tc.want...)
			if diff := cmp.Diff(want, pythonParts(t, data)); diff != "" {
				t.Errorf("%s (-want +got):\n%s", tc.reason, diff)
			}
			for _, line := range strings.Split(strings.TrimSpace(tc.file), "\n") {
				if !bytes.Contains(data, []byte(line)) && name != "umlauts" {
					t.Errorf("%s: %q is missing", tc.reason, line)
				}
			}
		})
	}
}

// pythonParts has the message read as cloud-init does: the type and the
// beginning of each part.
func pythonParts(t *testing.T, data []byte) []string {
	t.Helper()
	python, err := exec.LookPath("python3")
	if err != nil {
		t.Skip("cloud-init's reader needs python3")
	}
	cmd := exec.CommandContext(t.Context(), python, "-c", `
import email, sys
for part in email.message_from_bytes(sys.stdin.buffer.read()).walk():
    if part.get_content_maintype() != 'multipart':
        text = part.get_payload(decode=True).decode()
        print(part.get_content_type() + ': ' + text.split('\n')[0].split(',')[0])
`)
	cmd.Stdin = bytes.NewReader(data)
	out, err := cmd.Output()
	if err != nil {
		t.Fatal(err)
	}
	return strings.Split(strings.TrimSpace(string(out)), "\n")
}

func TestParseCloudInitRefuses(t *testing.T) {
	for name, tc := range map[string]struct{ reason, file, want string }{
		"nothing":      {"an empty file is a mistake", "", "neither"},
		"no header":    {"cloud-init would not know what it is either", "hostname: a\n", "multi-part"},
		"JSON":         {"Kip's part is Kip's business", "{}", "neither"},
		"one part":     {"a message of one part is none of parts", "Content-Type: text/cloud-config\n\n#cloud-config\n", "text/cloud-config"},
		"without ends": {"nobody could tell its parts", "Content-Type: multipart/mixed\n\n#cloud-config\n", "boundary"},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := ParseCloudInit([]byte(tc.file)); err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s: got %v, want an error with %q", tc.reason, err, tc.want)
			}
		})
	}
}

func TestLargeCloudInit(t *testing.T) {
	repetitive := &CloudInit{"text/cloud-config", []byte("#cloud-config\n" + strings.Repeat("# a comment\n", 3000))}
	data, err := Encode(document(t), repetitive)
	if err != nil {
		t.Fatal(err)
	}
	if !isGzip(data) || len(data) > MaxBytes {
		t.Errorf("%d bytes, compressed = %v", len(data), isGzip(data))
	}
	if _, err := Decode(data); err != nil {
		t.Error(err)
	}
	if _, err := Encode(document(t), &CloudInit{"text/cloud-config", []byte("#cloud-config\n" + noise(2*MaxBytes))}); err == nil ||
		!strings.Contains(err.Error(), ErrTooLarge.Error()) || !strings.Contains(err.Error(), fmt.Sprint(MaxBytes)) {
		t.Errorf("got %v, want ErrTooLarge with the limit", err)
	}
}
