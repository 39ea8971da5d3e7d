package control

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/starferry/starferry"
)

// Mark is what a commit of ours says in its metadata beside the offset. Each
// commit overwrites it, so every commit writes it.
type Mark struct {
	State State
	Epoch starferry.Epoch
	// Cluster is To of a Moved mark and From of a Seeded one.
	Cluster starferry.ClusterName
	// Handled are ranges beyond the committed offset that are already handled.
	Handled []starferry.Range
	// Was is the metadata of another client that this mark stands in for, so
	// that it can be put back byte for byte.
	Was string
}

// State is the state a mark puts a partition in.
type State string

// The states. At equal epochs Moved beats everything.
const (
	// Home: the group lives on this cluster.
	Home State = "home"
	// Draining: the position is the cut of an open switch away from here.
	Draining State = "draining"
	// Seeded: a translated position, valid only if Mark.Cluster says Moved with
	// the same epoch.
	Seeded State = "seeded"
	// Moved: the decision. The group lives on Mark.Cluster.
	Moved State = "moved"
)

// MaxMetadata is how many bytes of commit metadata a broker accepts by default
// (offset.metadata.max.bytes).
const MaxMetadata = 4096

// ErrForeign is returned for metadata that is not ours: written by another
// client, or empty.
var ErrForeign = errors.New("commit metadata of another client")

const markPrefix = "starferry/1 "

// String returns the text that is committed, such as
// "starferry/1 moved e=7 c=dc2" or "starferry/1 home e=7 h=12-14,20-21".
func (m Mark) String() string {
	var b strings.Builder
	b.WriteString(markPrefix)
	b.WriteString(string(m.State))
	b.WriteString(" e=")
	b.WriteString(strconv.FormatInt(int64(m.Epoch), 10))
	if m.Cluster != "" {
		b.WriteString(" c=")
		b.WriteString(string(m.Cluster))
	}
	for i, r := range m.Handled {
		if i == 0 {
			b.WriteString(" h=")
		} else {
			b.WriteByte(',')
		}
		fmt.Fprintf(&b, "%d-%d", r.From, r.To)
	}
	if m.Was != "" {
		b.WriteString(" w=")
		b.WriteString(base64.RawURLEncoding.EncodeToString([]byte(m.Was)))
	}
	return b.String()
}

// ParseMark reads what String wrote. It returns ErrForeign for the metadata of
// other clients, and another error for a text that claims to be ours and is not.
func ParseMark(s string) (Mark, error) {
	body, ok := strings.CutPrefix(s, markPrefix)
	if !ok {
		if strings.HasPrefix(s, "starferry/") {
			return Mark{}, fmt.Errorf("parse commit metadata %q: written by a newer protocol; upgrade this program", s)
		}
		return Mark{}, ErrForeign
	}
	fields := strings.Fields(body)
	if len(fields) < 2 {
		return Mark{}, fmt.Errorf("parse commit metadata %q: want a state and an epoch", s)
	}
	m := Mark{State: State(fields[0])}
	switch m.State {
	case Home, Draining, Seeded, Moved:
	default:
		return Mark{}, fmt.Errorf("parse commit metadata %q: unknown state %q", s, fields[0])
	}
	for _, f := range fields[1:] {
		if err := m.set(f); err != nil {
			return Mark{}, fmt.Errorf("parse commit metadata %q: %w", s, err)
		}
	}
	if (m.State == Moved || m.State == Seeded) && m.Cluster == "" {
		return Mark{}, fmt.Errorf("parse commit metadata %q: %s without a cluster", s, m.State)
	}
	return m, nil
}

func (m *Mark) set(field string) error {
	key, value, _ := strings.Cut(field, "=")
	switch key {
	case "e":
		e, err := strconv.ParseInt(value, 10, 64)
		if err != nil || e < 0 {
			return fmt.Errorf("epoch %q is no number", value)
		}
		m.Epoch = starferry.Epoch(e)
	case "c":
		m.Cluster = starferry.ClusterName(value)
	case "h":
		for _, r := range strings.Split(value, ",") {
			from, to, _ := strings.Cut(r, "-")
			a, err1 := strconv.ParseInt(from, 10, 64)
			b, err2 := strconv.ParseInt(to, 10, 64)
			if err1 != nil || err2 != nil || a < 0 || b <= a {
				return fmt.Errorf("handled range %q is no range", r)
			}
			m.Handled = append(m.Handled, starferry.Range{From: starferry.Offset(a), To: starferry.Offset(b)})
		}
	case "w":
		was, err := base64.RawURLEncoding.DecodeString(value)
		if err != nil {
			return fmt.Errorf("former metadata %q is not in base64: %w", value, err)
		}
		m.Was = string(was)
	default:
		return fmt.Errorf("unknown field %q", field)
	}
	return nil
}
