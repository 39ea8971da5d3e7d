package offsetmap

import (
	"bufio"
	"fmt"
	"hash/crc32"
	"io"
	"strconv"
	"strings"

	"github.com/starferry/starferry"
)

// The text form of maps, for people, diffs and other tools. One statement a
// line; words are separated by single spaces; lines that begin with # and empty
// lines say nothing.
//
//	starferry map 1
//	link NAME SOURCE-CLUSTER TARGET-CLUSTER
//	lane TOPIC/PARTITION TARGET-TOPIC SOURCE-TOPIC-ID TARGET-TOPIC-ID
//	start SOURCE TARGET
//	run SOURCE TARGET COUNT
//	hole SOURCE COUNT REASON
//	unknown SOURCE COUNT
//	next SOURCE TARGET
//	sum CRC32C
//	end LANES
//
// After each lane line come its start, its runs, holes and unknown stretches in
// source order without a break, next, and sum: the CRC32-C, in hex, of the
// lane's lines from lane to next, each with its newline and without comments.
// "-" stands for the id of a topic on a cluster that has none. The last line
// says how many lanes there are.
const textHeader = "starferry map 1"

// TextHead is what a text says of the link.
type TextHead struct {
	Link           starferry.LinkName
	Source, Target starferry.ClusterName
}

// TextLane is one lane of a text.
type TextLane struct {
	Partition   starferry.TopicPartition
	TargetTopic starferry.Topic
	// The topics' ids, or "" where a cluster has none.
	SourceID, TargetID string
	// Line is where the lane begins.
	Line int
}

// TextWriter writes maps as text. Its first error stays, and Close returns it.
type TextWriter struct {
	w     *bufio.Writer
	sum   uint32
	lanes int
	err   error
}

// NewTextWriter begins a text.
func NewTextWriter(w io.Writer, h TextHead) *TextWriter {
	t := &TextWriter{w: bufio.NewWriter(w)}
	t.line("%s", textHeader)
	t.line("link %s %s %s", h.Link, h.Source, h.Target)
	return t
}

func (t *TextWriter) line(format string, args ...any) {
	if t.err != nil {
		return
	}
	s := fmt.Sprintf(format, args...) + "\n"
	t.sum = updateSum(t.sum, []byte(s))
	_, t.err = t.w.WriteString(s)
}

func orDash(s string) string {
	if s == "" {
		return "-"
	}
	return s
}

// Map writes one lane.
func (t *TextWriter) Map(l TextLane, m *Map) error {
	t.sum = 0
	t.lanes++
	t.line("lane %s %s %s %s", l.Partition, l.TargetTopic, orDash(l.SourceID), orDash(l.TargetID))
	source, target, unsure, err := m.Front()
	if err != nil {
		t.err = err
		return err
	}
	if unsure {
		t.line("start %d %d", source-1, target)
		t.line("unknown %d 1", source-1)
	} else {
		t.line("start %d %d", source, target)
	}
	for s, err := range m.Segments(0) {
		if err != nil {
			t.err = err
			return err
		}
		if before := source - s.Source; before > 0 { // forgotten
			s.Source, s.Count = source, s.Count-int64(before)
			s.Target += before
		}
		switch s.Status {
		case starferry.Exact:
			t.line("run %d %d %d", s.Source, s.Target, s.Count)
		case starferry.InHole:
			t.line("hole %d %d %s", s.Source, s.Count, s.Reason)
		default:
			t.line("unknown %d %d", s.Source, s.Count)
		}
	}
	source, target = m.Next()
	t.line("next %d %d", source, target)
	t.line("sum %08x", t.sum)
	return t.err
}

// Close ends the text. The writer below stays open.
func (t *TextWriter) Close() error {
	t.line("end %d", t.lanes)
	if t.err == nil {
		t.err = t.w.Flush()
	}
	if t.err != nil {
		return fmt.Errorf("write map as text: %w", t.err)
	}
	return nil
}

// TextError is a line of a text that cannot be taken.
type TextError struct {
	Line int
	Text string // what is wrong, and what to do
}

// Error implements error.
func (e *TextError) Error() string { return fmt.Sprintf("line %d: %s", e.Line, e.Text) }

// maxTextLine bounds a line: two topic names and two ids.
const maxTextLine = 2 << 10

// ReadText reads a text and hands over each lane with its map, once its checksum
// is right. Every error is a *TextError, or what lane returned. Memory is bounded
// by the largest lane.
func ReadText(from io.Reader, head func(TextHead) error, lane func(TextLane, *Map) error) error {
	t := textReader{scan: bufio.NewScanner(from)}
	t.scan.Buffer(make([]byte, 0, maxTextLine), maxTextLine)
	if line, ok := t.next(); !ok || line != textHeader {
		return t.wrong("this is no map: want %q first, as `starferry map export` writes it", textHeader)
	}
	w, ok := t.words("link", 4)
	if !ok {
		return t.wrong("want link NAME SOURCE TARGET")
	}
	if err := head(TextHead{starferry.LinkName(w[1]), starferry.ClusterName(w[2]), starferry.ClusterName(w[3])}); err != nil {
		return &TextError{t.line, err.Error()}
	}
	for lanes := 0; ; lanes++ {
		t.sum = 0
		line, ok := t.next()
		if !ok {
			return t.wrong("the text is cut off: its last line must be end %d; export it again", lanes)
		}
		if strings.HasPrefix(line, "end ") {
			return t.end(line, lanes)
		}
		l, m, err := t.lane(strings.Split(line, " "))
		if err != nil {
			return err
		}
		if err := lane(l, m); err != nil {
			return err
		}
	}
}

// textReader takes a text apart, line by line.
type textReader struct {
	scan *bufio.Scanner
	line int
	sum  uint32 // of the lines since it was set to 0
	text string
}

// next is the next line that says something.
func (t *textReader) next() (string, bool) {
	for t.scan.Scan() {
		t.line++
		t.text = t.scan.Text()
		if t.text == "" || t.text[0] == '#' {
			continue
		}
		t.sum = crc32.Update(crc32.Update(t.sum, castagnoli, []byte(t.text)), castagnoli, []byte{'\n'})
		return t.text, true
	}
	t.line++
	t.text = ""
	return "", false
}

// words are those of the next line, if it begins with a word and has so many.
func (t *textReader) words(first string, n int) ([]string, bool) {
	line, ok := t.next()
	w := strings.Split(line, " ")
	return w, ok && len(w) == n && w[0] == first
}

func (t *textReader) wrong(format string, args ...any) error {
	text := fmt.Sprintf(format, args...)
	if err := t.scan.Err(); err != nil {
		text += " (" + err.Error() + ")"
	} else if t.text != "" {
		text += fmt.Sprintf("; it reads %q", t.text)
	}
	return &TextError{t.line, text}
}

func (t *textReader) end(line string, lanes int) error {
	if line != "end "+strconv.Itoa(lanes) {
		return t.wrong("%d lanes came before it: lanes are missing or were added; export the map again", lanes)
	}
	if _, more := t.next(); more {
		return t.wrong("nothing may follow the end")
	}
	return nil
}

// lane reads one lane behind its first line.
func (t *textReader) lane(w []string) (l TextLane, m *Map, err error) {
	l.Line = t.line
	if len(w) != 5 || w[0] != "lane" {
		return l, nil, t.wrong("want lane TOPIC/PARTITION TARGET-TOPIC SOURCE-ID TARGET-ID")
	}
	if l.Partition, err = starferry.ParseTopicPartition(w[1]); err != nil {
		return l, nil, t.wrong("%s", err)
	}
	l.TargetTopic, l.SourceID, l.TargetID = starferry.Topic(w[2]), strings.TrimPrefix(w[3], "-"), strings.TrimPrefix(w[4], "-")
	w, ok := t.words("start", 3)
	at, err := t.numbers(w, 1, 3)
	m = &Map{}
	if !ok || err != nil || m.Reset(starferry.Offset(at[0]), starferry.Offset(at[1])) != nil {
		return l, nil, t.wrong("want start SOURCE TARGET, two offsets")
	}
	for {
		line, ok := t.next()
		if !ok {
			return l, nil, t.wrong("the text is cut off in lane %s; export it again", l.Partition)
		}
		w := strings.Split(line, " ")
		if w[0] == "next" {
			return l, m, t.close(m, w)
		}
		if err := t.add(m, w); err != nil {
			return l, nil, err
		}
	}
}

// add takes a run, a hole or an unknown stretch.
func (t *textReader) add(m *Map, w []string) error {
	source, _ := m.Next()
	switch {
	case w[0] == "run" && len(w) == 4:
		n, err := t.numbers(w, 1, 4)
		if err == nil {
			err = m.Append(Run{starferry.Offset(n[0]), starferry.Offset(n[1]), n[2]})
		}
		if err != nil {
			return t.wrong("%s (the lane is at source %d)", err, source)
		}
	case w[0] == "hole" && len(w) == 4, w[0] == "unknown" && len(w) == 3:
		n, err := t.numbers(w, 1, 3)
		if err == nil && (n[1] <= 0 || n[1] > int64(maxOffset) || n[0] > int64(maxOffset)) {
			err = fmt.Errorf("%d offsets", n[1])
		}
		if err == nil && w[0] == "hole" {
			err = m.Hole(starferry.Offset(n[0]), starferry.Offset(n[0]+n[1]), starferry.Reason(w[3]))
		} else if err == nil {
			err = m.MarkUnknown(starferry.Offset(n[0]), starferry.Offset(n[0]+n[1]))
		}
		if err != nil {
			return t.wrong("%s (the lane is at source %d)", err, source)
		}
	default:
		return t.wrong("want run SOURCE TARGET COUNT, hole SOURCE COUNT REASON, unknown SOURCE COUNT, or next SOURCE TARGET")
	}
	return nil
}

// close checks a lane's last two lines.
func (t *textReader) close(m *Map, w []string) error {
	n, err := t.numbers(w, 1, 3)
	source, target := m.Next()
	if err != nil || len(w) != 3 || starferry.Offset(n[0]) != source || starferry.Offset(n[1]) < target || m.Pass(starferry.Offset(n[1])) != nil {
		return t.wrong("want next %d and a target offset from %d on: lines are missing or were added; export the map again", source, target)
	}
	sum := t.sum
	w, ok := t.words("sum", 2)
	if !ok || w[1] != fmt.Sprintf("%08x", sum) {
		return t.wrong("want sum %08x: the lane's lines were changed; export the map again, or correct the sum if the change is meant", sum)
	}
	return nil
}

// numbers reads the words [from, to), none of them negative.
func (t *textReader) numbers(w []string, from, to int) ([]int64, error) {
	out := make([]int64, 0, 3)
	for i := from; i < to; i++ {
		if i >= len(w) {
			return make([]int64, 3), fmt.Errorf("numbers are missing")
		}
		n, err := strconv.ParseInt(w[i], 10, 64)
		if err != nil || n < 0 || strconv.FormatInt(n, 10) != w[i] {
			return make([]int64, 3), fmt.Errorf("%q is no offset or count", w[i])
		}
		out = append(out, n)
	}
	return out, nil
}
