package batch

// Edit is what Rewrite is to do with a record.
type Edit int8

// The edits.
const (
	Keep   Edit = iota // as it is
	Change             // as the function has left it
	Drop
)

// Rewrite is Reencode with a say in each record: edit may change key, value and
// headers of what it is given, but not the bytes they alias. What it drops is
// left out.
func Rewrite(b Batch, edit func(*Record) Edit, l Limits) ([]Copy, error) {
	if b.Control() {
		return nil, b.wrong("attributes", "a control batch has no records to copy")
	}
	// What is written gets a fresh checksum: it must not bless damage.
	if err := b.Verify(); err != nil {
		return nil, err
	}
	c := &coder{limit: l.Decompressed}
	defer c.close()
	var kept []raw
	for r, err := range c.raws(b) {
		if err != nil {
			return nil, err
		}
		record, err := r.record(b)
		if err != nil {
			return nil, err
		}
		switch edit(&record) {
		case Drop:
			continue
		case Change:
			r.body = record.appendBody(nil)
		case Keep:
		}
		kept = append(kept, r)
	}
	if len(kept) == 0 {
		return nil, nil
	}
	return c.dense(nil, b.Codec(), kept, l)
}
