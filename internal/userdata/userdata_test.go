package userdata

import (
	"bytes"
	"compress/gzip"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/elotl/kip/v2/internal/pki"
)

func authority(tb testing.TB) *pki.Authority {
	tb.Helper()
	a, err := pki.Create(time.Now())
	if err != nil {
		tb.Fatal(err)
	}
	return a
}

func document(tb testing.TB) Document {
	return Document{
		APIVersion:     APIVersion,
		Cell:           "web-7d4b-0",
		CACertificates: string(authority(tb).CertificatePEM()),
		EnrolmentToken: "c2VjcmV0",
		Node: Node{
			Name:          "kip-provider-0",
			ClusterDNS:    []string{"10.96.0.10"},
			ClusterDomain: "cluster.local",
		},
		RegistryMirrors: []Mirror{
			{Hosts: []string{"docker.io", "*.dkr.ecr.us-west-2.amazonaws.com"}, Endpoint: "http://10.98.255.1:5000"},
			{Hosts: []string{DefaultMirror}, Endpoint: "https://mirror.example.com"},
		},
		SandboxImage:         "registry.k8s.io/pause:3.10",
		Routes:               []netip.Prefix{netip.MustParsePrefix("10.20.0.0/16")},
		GPUs:                 1,
		PowerOffAfterSeconds: 1800,
	}
}

var comparePrefixes = cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })

// noise is text that does not compress well, of printable characters.
func noise(n int) string {
	r := rand.New(rand.NewPCG(1, 2))
	var b strings.Builder
	for range n {
		b.WriteByte("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_"[r.IntN(64)])
	}
	return b.String()
}

func TestEncodeDecode(t *testing.T) {
	many := document(t)
	for i := range 300 {
		many.RegistryMirrors = append(many.RegistryMirrors, Mirror{
			Hosts: []string{fmt.Sprintf("registry-%d.example.com", i)}, Endpoint: "http://10.98.255.1:5000",
		})
	}
	cases := map[string]struct {
		reason     string
		doc        Document
		compressed bool
	}{
		"Small": {
			reason: "What fits stays readable.",
			doc:    document(t),
		},
		"Large": {
			reason:     "What does not fit as it is gets compressed.",
			doc:        many,
			compressed: true,
		},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			data, err := Encode(tc.doc)
			if err != nil {
				t.Fatalf("%s\nEncode: %v", tc.reason, err)
			}
			if len(data) > MaxBytes {
				t.Errorf("%s\n%d bytes, at most %d", tc.reason, len(data), MaxBytes)
			}
			if got := isGzip(data); got != tc.compressed {
				t.Errorf("%s\ncompressed: got %t, want %t", tc.reason, got, tc.compressed)
			}
			got, err := Decode(data)
			if err != nil {
				t.Fatalf("%s\nDecode: %v", tc.reason, err)
			}
			if diff := cmp.Diff(tc.doc, got, comparePrefixes); diff != "" {
				t.Errorf("%s\n-want +got:\n%s", tc.reason, diff)
			}
		})
	}
}

func TestEncodeRefuses(t *testing.T) {
	key, err := pki.NewKey()
	if err != nil {
		t.Fatal(err)
	}
	keyPEM, err := pki.EncodeKey(key)
	if err != nil {
		t.Fatal(err)
	}
	cases := map[string]struct {
		reason string
		change func(*Document)
		want   string
	}{
		"TooLarge": {
			reason: "The launch must fail before the cloud is asked.",
			change: func(d *Document) { d.SandboxImage = noise(2 * MaxBytes) },
			want:   ErrTooLarge.Error(),
		},
		"FarTooLarge": {
			reason: "What Decode would not unpack is not written.",
			change: func(d *Document) { d.SandboxImage = strings.Repeat("a", maxPlainBytes) },
			want:   ErrTooLarge.Error(),
		},
		"PrivateKey": {
			reason: "A key beside the certificates would be readable by every pod.",
			change: func(d *Document) { d.CACertificates += string(keyPEM) },
			want:   `caCertificates: block 1 is a "PRIVATE KEY"`,
		},
		"NoCertificate": {
			reason: "Without it the agent cannot know Kip.",
			change: func(d *Document) { d.CACertificates = "" },
			want:   "caCertificates: no PEM certificate",
		},
		"NoCell":  {change: func(d *Document) { d.Cell = "" }, want: "cell is missing"},
		"NoToken": {change: func(d *Document) { d.EnrolmentToken = "" }, want: "enrolmentToken is missing"},
		"NoNode":  {change: func(d *Document) { d.Node.Name = "" }, want: "node.name is missing"},
		"DNSName": {
			reason: "The kubelet writes it into resolv.conf, which takes addresses.",
			change: func(d *Document) { d.Node.ClusterDNS = []string{"dns.example.com"} },
			want:   "node.clusterDNS[0]",
		},
		"MirrorWithoutHosts": {change: func(d *Document) { d.RegistryMirrors[1].Hosts = nil }, want: "registryMirrors[1]: hosts is empty"},
		"MirrorEmptyHost":    {change: func(d *Document) { d.RegistryMirrors[1].Hosts = []string{""} }, want: "registryMirrors[1]: hosts[0] is empty"},
		"MirrorEndpoint":     {change: func(d *Document) { d.RegistryMirrors[0].Endpoint = "10.0.0.1:5000" }, want: "registryMirrors[0]: endpoint"},
		"GPUs":               {change: func(d *Document) { d.GPUs = -1 }, want: "gpus"},
		"RouteOfIPv6":        {change: func(d *Document) { d.Routes[0] = netip.MustParsePrefix("fd00::/64") }, want: "routes[0]"},
		"NegativeLogs":       {change: func(d *Document) { d.Node.MaxContainerLogMiB = -1 }, want: "maxContainerLogMiB"},
		"NegativePowerOff":   {change: func(d *Document) { d.PowerOffAfterSeconds = -1 }, want: "powerOffAfterSeconds"},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			d := document(t)
			tc.change(&d)
			_, err := Encode(d)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s\ngot error %v, want one with %q", tc.reason, err, tc.want)
			}
		})
	}
}

func TestDecodeRefuses(t *testing.T) {
	good, err := Encode(document(t))
	if err != nil {
		t.Fatal(err)
	}
	var bomb bytes.Buffer
	w := gzip.NewWriter(&bomb)
	if _, err := w.Write(make([]byte, 10<<20)); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	edit := func(old, new string) []byte { return bytes.Replace(good, []byte(old), []byte(new), 1) }
	cases := map[string]struct {
		reason string
		data   []byte
		want   string
	}{
		"Empty":        {data: nil, want: "EOF"},
		"OtherParts":   {reason: "A message without Kip's part.", data: []byte("Content-Type: multipart/mixed; boundary=b\n\n--b\nContent-Type: text/plain\n\n{}\n--b--\n"), want: "no part"},
		"NoParts":      {data: []byte("Content-Type: text/plain\n\n{}\n"), want: "text/plain"},
		"NotJSON":      {data: []byte("#cloud-config\n"), want: "neither a document nor a MIME message"},
		"OtherVersion": {reason: "An agent that does not know the version must not guess.", data: edit(APIVersion, "kip.elotl.co/v2"), want: `apiVersion is "kip.elotl.co/v2"`},
		"Required":     {reason: "A pod must not run without what it needs.", data: edit(`"cell":`, `"requires":["wings"],"wings":2,"cell":`), want: `requires "wings"`},
		"Trailing":     {data: append(bytes.Clone(good), "{}"...), want: "something follows"},
		"MissingCell":  {data: edit(`"cell":"web-7d4b-0",`, ""), want: "cell is missing"},
		"Bomb":         {reason: "10 MB of zeros in 10 kB.", data: bomb.Bytes(), want: ErrTooLarge.Error()},
		"CutGzip":      {data: bomb.Bytes()[:20], want: "unpacking"},
		"TooLong":      {data: make([]byte, MaxBytes+1), want: ErrTooLarge.Error()},
	}
	for name, tc := range cases {
		t.Run(name, func(t *testing.T) {
			_, err := Decode(tc.data)
			if err == nil || !strings.Contains(err.Error(), tc.want) {
				t.Errorf("%s\ngot error %v, want one with %q", tc.reason, err, tc.want)
			}
		})
	}
}

// A Kip of a later release writes what this agent does not know.
func TestDecodeIgnoresWhatIsNew(t *testing.T) {
	want := document(t)
	data, err := Encode(want)
	if err != nil {
		t.Fatal(err)
	}
	got, err := Decode(bytes.Replace(data, []byte(`"cell":`), []byte(`"wings":{"count":2},"cell":`), 1))
	if err != nil {
		t.Fatal(err)
	}
	want.APIVersion = APIVersion
	if diff := cmp.Diff(want, got, cmp.Comparer(func(a, b netip.Prefix) bool { return a == b })); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func FuzzDecode(f *testing.F) {
	d := document(f)
	plain, err := Encode(d)
	if err != nil {
		f.Fatal(err)
	}
	d.SandboxImage = strings.Repeat("a", 2*MaxBytes)
	packed, err := Encode(d)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(plain)
	f.Add(packed)
	message, err := Encode(document(f), &CloudInit{"text/cloud-config", []byte("#cloud-config\n")})
	if err != nil {
		f.Fatal(err)
	}
	f.Add(message)
	f.Add([]byte("{}"))
	f.Add([]byte{0x1f, 0x8b})
	f.Fuzz(func(t *testing.T, data []byte) {
		d, err := Decode(data)
		if err != nil {
			return
		}
		again, err := Encode(d)
		if errors.Is(err, ErrTooLarge) {
			return // escapes may make it longer
		}
		if err != nil {
			t.Fatalf("Encode refuses what Decode took: %v", err)
		}
		got, err := Decode(again)
		if err != nil {
			t.Fatalf("Decode refuses what Encode wrote: %v", err)
		}
		if diff := cmp.Diff(d, got, comparePrefixes); diff != "" {
			t.Errorf("-first +second:\n%s", diff)
		}
	})
}
