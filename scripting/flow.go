package scripting

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"go.starlark.net/starlark"
)

// The values of parallel's on_error.
const (
	onErrorStop     = "stop"
	onErrorContinue = "continue"
)

// flows are the words that say how the calls of a phase run.
func flows() []*Builtin {
	return []*Builtin{
		{Name: "parallel", Class: Flow, Returns: "list of what fn returned, in the order of items",
			Doc: `Calls a function for every item, several at once. Each item is a branch: its calls are journaled under its own name, so that a run that is resumed goes on with
each where it was, and those that are done are not touched again. A branch that fails undoes itself; those under way go on to their end, later ones are not begun, and the
phase stops with a table of what stands. Give the phase on_fail = "hold", so that what is done stays and resume goes on with the rest.`,
			Example: `parallel(lambda g: switch_consumer(g.name, source = old, target = new, link = link), wave.groups, max = 20, title = wave.name)`,
			Params: []Param{
				{Name: "fn", Type: AnyType(), Required: true, Doc: "function of one item"},
				{Name: "items", Type: AnyType(), Required: true, Doc: "list of names, or of structs with a name"},
				{Name: "max", Type: IntType(), Default: 8, Doc: "how many at once"},
				{Name: "key", Type: StringType(), Default: "name", Doc: "attribute that names a branch, if items are structs"},
				{Name: "on_error", Type: StringType(), Default: onErrorStop, Doc: "stop (later items are not begun) or continue (they are tried all the same; the phase stops at the end)"},
				{Name: "title", Type: StringType(), Doc: "what people read of it, such as the wave's name"},
			}},
		{Name: "lock", Class: Flow, Returns: "None",
			Doc:     "Takes more locks for this run, beside those of migration(lock = ...), for names that are known only on the way. A lock that another open run holds stops the run.",
			Example: `lock(["group " + g.name for g in groups])`,
			Params:  []Param{{Name: "names", Type: ListType(), Required: true, Doc: "locks to take"}}},
		{Name: "approve", Class: Flow, Returns: "None",
			Doc:     `Stops the run with a question. Resuming the run is the yes. Its phase must have on_fail = "hold", or it would undo itself while it waits.`,
			Example: `approve("The canary is fine: move wave %s?" % wave.name)`,
			Params:  []Param{{Name: "question", Type: StringType(), Required: true, Doc: "what a person has to say yes to"}}},
	}
}

// flow carries out a word of flow.
func flow(ctx context.Context, s *session, b *Builtin, where string, args starlark.Tuple, kwargs []starlark.Tuple) (starlark.Value, error) {
	got, err := bind(b, args, kwargs)
	if err != nil {
		return nil, err
	}
	plain := map[string]any{}
	for name, v := range got {
		if b.param(name).Type.Name == "any" {
			continue
		}
		if plain[name], err = toPlain(v); err != nil {
			return nil, fmt.Errorf("%s: argument %s: %w", b.Name, name, err)
		}
	}
	a, err := b.parse(plain)
	if err != nil {
		return nil, err
	}
	if s.part == partDo && s.phase.do != nil {
		if _, scripted := s.phase.do.(*starlark.Function); !scripted {
			return nil, fmt.Errorf("%s belongs into a phase of a script, not into a single line", b.Name)
		}
	}
	switch b.Name {
	case "parallel":
		f, err := newForkCall(a, got["fn"], got["items"], where)
		if err != nil {
			return nil, err
		}
		s.n++
		raw, err := s.answer.fork(ctx, s, f)
		if err != nil {
			return nil, err
		}
		return decodeValue(s.reg, raw)
	case "lock":
		if s.part != partDo || s.branch != "" {
			return nil, fmt.Errorf("lock belongs into do of a phase, outside of parallel")
		}
		s.n++
		return starlark.None, s.answer.lock(ctx, s, a.Strings("names"), where)
	case "approve":
		if s.part != partDo || s.branch != "" || s.phase.onFail != onFailHold {
			return nil, fmt.Errorf(`approve belongs into do of a phase with on_fail = "hold", outside of parallel: it stops the run, and phase %s would undo what it has done`, s.phase.name)
		}
		s.n++
		return starlark.None, s.answer.approve(ctx, s, a.Text("question"), where)
	}
	return nil, fmt.Errorf("%s: a word that the runtime does not know", b.Name)
}

// forkCall is one call of parallel.
type forkCall struct {
	forked
	fn    *starlark.Function
	items []starlark.Value
	where string
}

// forked is what the journal keeps of it.
type forked struct {
	At      string   `json:"at"` // what the paths of its branches begin with
	Title   string   `json:"title,omitempty"`
	Keys    []string `json:"keys"`
	Max     int      `json:"max"`
	OnError string   `json:"on_error,omitempty"`
}

func newForkCall(a Args, fn, items starlark.Value, where string) (*forkCall, error) {
	f := &forkCall{where: where, forked: forked{Title: a.Text("title"), Max: int(a.Int("max")), OnError: a.Text("on_error"), Keys: []string{}}}
	var ok bool
	if f.fn, ok = fn.(*starlark.Function); !ok {
		return nil, fmt.Errorf("parallel: argument fn: want a function of one item, got %s; write its name without calling it, or a lambda", fn.Type())
	}
	if f.Max < 1 || f.Max > maxBranches {
		return nil, fmt.Errorf("parallel: argument max: %d at once: want 1 to %d", f.Max, maxBranches)
	}
	if modes := []string{onErrorStop, onErrorContinue}; !slices.Contains(modes, f.OnError) {
		return nil, fmt.Errorf("parallel: on_error %q%s: want one of %s", f.OnError, suggestion(f.OnError, modes), strings.Join(modes, ", "))
	}
	list, ok := items.(starlark.Iterable)
	if !ok {
		return nil, fmt.Errorf("parallel: argument items: want a list, got %s", items.Type())
	}
	it := list.Iterate()
	defer it.Done()
	var v starlark.Value
	for it.Next(&v) {
		k, err := keyOf(v, a.Text("key"))
		if err != nil {
			return nil, fmt.Errorf("parallel: items[%d]: %w", len(f.items), err)
		}
		if slices.Contains(f.Keys, k) {
			return nil, fmt.Errorf("parallel: two items are named %s; their branches could not be told apart", k)
		}
		f.Keys, f.items = append(f.Keys, k), append(f.items, v)
		v.Freeze()
	}
	f.fn.Freeze() // what branches share does not change
	return f, nil
}

// maxBranches bounds how many branches run at once.
const maxBranches = 1000

// keyOf names the branch of an item.
func keyOf(v starlark.Value, attr string) (string, error) {
	if h, ok := v.(starlark.HasAttrs); ok {
		got, err := h.Attr(attr)
		if err == nil && got != nil {
			v = got
		}
	}
	if t, ok := v.(*typedValue); ok {
		return t.text, nil
	}
	if s, ok := starlark.AsString(v); ok && s != "" {
		return s, nil
	}
	return "", fmt.Errorf("a %s has no name: give a list of names, of structs with .%s, or say with key = which attribute names them", v.Type(), attr)
}

// String tells what is done at once.
func (f *forked) String() string {
	text := fmt.Sprintf("%d, %d at once", len(f.Keys), min(f.Max, max(1, len(f.Keys))))
	if f.Title != "" {
		text = f.Title + ": " + text
	}
	return text
}

// branch is the path of one branch below the phase.
func (f *forked) branch(key string) string { return f.At + "[" + escapeKey(key) + "]" }

// escapeKey makes any name a part of a step's id.
func escapeKey(key string) string {
	var b strings.Builder
	for _, c := range []byte(key) {
		if strings.IndexByte("/[]:%", c) >= 0 || c < ' ' {
			fmt.Fprintf(&b, "%%%02x", c)
			continue
		}
		b.WriteByte(c)
	}
	return b.String()
}

// at is what the paths of the branches of the call under way begin with.
func (s *session) at() string {
	n := fmt.Sprint(s.n)
	switch {
	case s.branch != "":
		return s.branch + "/" + n
	case s.part == partDo:
		return n
	}
	return s.part + "/" + n
}

// lock implements answerer.
func (l *live) lock(ctx context.Context, s *session, names []string, where string) error {
	e := l.engine
	raw, err := json.Marshal(names)
	if err != nil {
		return &outside{err}
	}
	hash := hashCall("lock", 0, Args{"names": names})
	if old := s.journaled(); old != nil {
		if old.id != s.stepID("lock") || old.hash != hash {
			return e.mismatch(old, "lock("+Literal(toAny(names))+")", where)
		}
		if old.ok() {
			return nil
		}
	}
	// Written before it is looked at: of two runs that lock at once, at least one
	// sees the other.
	if err := e.write(ctx, Record{Kind: Locked, Phase: s.phase.name, Args: raw}); err != nil {
		return err
	}
	rec := Record{Kind: Observed, Phase: s.phase.name, Step: s.stepID("lock"), Builtin: "lock", Hash: hash, Where: where}
	lockErr := e.r.checkLocks(ctx, names, e.history.run)
	if lockErr != nil {
		if ctx.Err() != nil {
			return &outside{context.Cause(ctx)}
		}
		rec.Error = lockErr.Error()
		if err := e.write(ctx, Record{Kind: Locked, Phase: s.phase.name, Args: raw, Text: lockGivenBack}); err != nil {
			return err
		}
	}
	if err := e.write(ctx, rec); err != nil {
		return err
	}
	if lockErr != nil {
		return &outside{lockErr}
	}
	return nil
}

func toAny(names []string) []any {
	out := make([]any, len(names))
	for i, n := range names {
		out[i] = n
	}
	return out
}

// approve implements answerer. The first time it is not met; whoever resumes the
// run has said yes.
func (l *live) approve(ctx context.Context, s *session, question, where string) error {
	e := l.engine
	id, hash := s.stepID("approve"), hashCall("approve", 0, Args{"question": question})
	rec := Record{Kind: Observed, Phase: s.phase.name, Step: id, Builtin: "approve", Hash: hash, Where: where}
	if old := s.journaled(); old != nil {
		if old.id != id || old.hash != hash {
			return e.mismatch(old, "approve("+Literal(question)+")", where)
		}
		if old.ok() {
			return nil
		}
		return e.write(ctx, rec)
	}
	unmet := Unmet("a yes to: "+question, "nobody has said yet; resume is the yes")
	rec.Error = unmet.Error()
	if err := e.write(ctx, rec); err != nil {
		return err
	}
	return &outside{unmet}
}
