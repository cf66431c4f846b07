package podmetrics

import (
	"encoding/binary"
	"io"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

const (
	// maxSamples bounds what is kept of one report: five times what a pod of
	// twenty containers has.
	maxSamples = 10_000
	// maxLabels and maxWord bound a sample's labels, and each of them in bytes.
	maxLabels, maxWord = 32, 1 << 10
	// maxValue is how many bytes the text of a number has at most.
	maxValue = 64
)

// samples are one cell's samples of one endpoint, by family. Text is how they
// come and go, but a container's labels stand in each of its lines: kept as
// numbers of words they take an eighth of it.
type samples struct {
	// words are the names, labels and timestamps, each once.
	words []string
	// data has, for each sample, its name's word, the number of its labels,
	// their words, its timestamp's word, and its value as a string with length.
	// A word is one more than its index; 0 stands for no timestamp.
	data []byte
	// ends is where each family's samples end in data.
	ends []uint32
}

// subject is whose samples may be reported: one pod's.
type subject struct{ namespace, name, uid string }

// parseSamples keeps those lines of the text that are samples of the families
// and of the subject. A cell that sends others gains nothing, and one that
// sends what is no sample does not spoil the answer that others are part of.
func parseSamples(text string, known *families, of subject) samples {
	p := parser{own: map[string]string{
		"namespace": quoted(of.namespace), "pod": quoted(of.name), "pod_uid": quoted(of.uid),
	}, index: map[string]uint64{}, families: make([][]byte, len(known.headers))}
	for line := range strings.SplitSeq(text, "\n") {
		name, rest, ok := strings.Cut(line, "{")
		if !ok {
			continue // without labels it is about no pod
		}
		family, ok := known.samples[name]
		if !ok || p.count == maxSamples || !p.parse(rest) {
			continue
		}
		p.count++
		p.families[family] = p.append(p.families[family], name)
	}
	s := samples{words: slices.Clip(p.words), data: slices.Concat(p.families...)}
	var end uint32
	for _, f := range p.families {
		end += uint32(len(f)) //nolint:gosec // bounded by the report
		s.ends = append(s.ends, end)
	}
	return s
}

func quoted(s string) string { return `"` + s + `"` }

// parser holds the sample that was parsed last, and what was kept of those
// before it.
type parser struct {
	own map[string]string // the values, quoted, of labels that say whose it is

	labels    []string // as they stand in the text: key="value"
	value     string
	timestamp string

	words    []string
	index    map[string]uint64
	families [][]byte
	count    int
}

// parse reads a sample from behind the brace that opens its labels. False means
// that it is none, or not the subject's.
func (p *parser) parse(s string) bool {
	p.labels = p.labels[:0]
	owned := 0
	for !strings.HasPrefix(s, "}") {
		key, rest, ok := strings.Cut(s, "=")
		if !ok || !isLabelName(key) || len(p.labels) == maxLabels {
			return false
		}
		n := quotedPrefix(rest)
		if n == 0 || len(key)+n > maxWord {
			return false
		}
		if own, ok := p.own[key]; ok {
			if rest[:n] != own {
				return false
			}
			if key != "pod_uid" {
				owned++
			}
		}
		for _, l := range p.labels {
			if strings.HasPrefix(l, key) && l[len(key)] == '=' {
				return false // twice
			}
		}
		p.labels = append(p.labels, s[:len(key)+1+n])
		s = rest[n:]
		if strings.HasPrefix(s, ",") {
			s = s[1:]
		} else if !strings.HasPrefix(s, "}") {
			return false
		}
	}
	if owned != 2 {
		return false
	}
	var ok bool
	if s, ok = strings.CutPrefix(s, "} "); !ok {
		return false
	}
	p.value, p.timestamp, ok = strings.Cut(s, " ")
	if _, err := strconv.ParseFloat(p.value, 64); err != nil || len(p.value) > maxValue || strings.ContainsAny(p.value, "_xXpP") {
		return false
	}
	if ok {
		if _, err := strconv.ParseInt(p.timestamp, 10, 64); err != nil {
			return false
		}
	}
	return true
}

// quotedPrefix is the length of the quoted value that s begins with, 0 if there
// is none.
func quotedPrefix(s string) int {
	if !strings.HasPrefix(s, `"`) {
		return 0
	}
	for i := 1; i < len(s); i++ {
		switch c := s[i]; {
		case c == '"':
			if !utf8.ValidString(s[:i]) {
				return 0
			}
			return i + 1
		case c == '\\':
			i++
			if i == len(s) || s[i] != '\\' && s[i] != '"' && s[i] != 'n' {
				return 0
			}
		case c < ' ':
			return 0 // some readers stop at a NUL
		}
	}
	return 0
}

// isLabelName says whether a cell may use the name. Those with two underscores
// are Prometheus' own: one of them would make another metric of the sample.
func isLabelName(s string) bool {
	for i := range len(s) {
		c := s[i]
		if c != '_' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') && (i == 0 || c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && !strings.HasPrefix(s, "__")
}

// append encodes the sample.
func (p *parser) append(to []byte, name string) []byte {
	to = binary.AppendUvarint(to, p.word(name))
	to = binary.AppendUvarint(to, uint64(len(p.labels)))
	for _, l := range p.labels {
		to = binary.AppendUvarint(to, p.word(l))
	}
	to = binary.AppendUvarint(to, p.word(p.timestamp))
	to = append(to, byte(len(p.value)))
	return append(to, p.value...)
}

// word is the number of a word, one more than its index.
func (p *parser) word(w string) uint64 {
	if w == "" {
		return 0
	}
	n, ok := p.index[w]
	if !ok {
		w = strings.Clone(w) // the report's text is not kept for it
		p.words = append(p.words, w)
		n = uint64(len(p.words))
		p.index[w] = n
	}
	return n
}

// family returns the samples of one family, nil if there are none.
func (s *samples) family(n int) []byte {
	if n >= len(s.ends) {
		return nil
	}
	start := uint32(0)
	if n > 0 {
		start = s.ends[n-1]
	}
	return s.data[start:s.ends[n]]
}

// appendText appends the samples of one family as lines of text.
func (s *samples) appendText(to []byte, n int) []byte {
	data := s.family(n)
	number := func() uint64 {
		n, size := binary.Uvarint(data)
		data = data[size:]
		return n
	}
	for len(data) > 0 {
		to = append(to, s.words[number()-1]...)
		separator := byte('{')
		for range number() {
			to = append(to, separator)
			to = append(to, s.words[number()-1]...)
			separator = ','
		}
		to = append(to, '}', ' ')
		timestamp := number()
		length := int(data[0])
		to = append(to, data[1:1+length]...)
		data = data[1+length:]
		if timestamp > 0 {
			to = append(to, ' ')
			to = append(to, s.words[timestamp-1]...)
		}
		to = append(to, '\n')
	}
	return to
}

// writeText writes the samples of many cells in the text format: one family
// after the other, and in each one cell after the other. It holds no more than
// one cell's share of one family at a time.
func writeText(w io.Writer, known *families, cells []*samples) error {
	var text []byte
	for n, header := range known.headers {
		text = append(text[:0], header...)
		for _, s := range cells {
			text = s.appendText(text, n)
			if len(text) == len(header) {
				continue
			}
			if _, err := w.Write(text); err != nil {
				return err
			}
			text, header = text[:0], ""
		}
	}
	return nil
}
