package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"time"

	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/scripting"
)

// heartbeat is how often, without a terminal, waiting says what it waits for.
const heartbeat = 30 * time.Second

// progress shows the events of a run: on a terminal what is waited for is
// rewritten in place below the log; elsewhere it is a line now and then.
type progress struct {
	w        io.Writer
	json     io.Writer // not nil: one object a line, nothing else
	terminal bool
	colour   bool
	pending  bool   // a line stands that will be rewritten
	failure  string // why the phase failed, which the run's failure need not repeat
	beat     time.Time
	waits    map[string]waiting // of each step, without a terminal
}

// waiting is what was said last of a step.
type waiting struct {
	key string
	at  time.Time
}

func (c *cli) progress(asJSON bool) *progress {
	p := &progress{w: c.Err, terminal: terminal(c.Err), colour: c.colour()}
	if asJSON {
		p.json = c.Out
	}
	return p
}

const (
	dim   = "\x1b[2m"
	red   = "\x1b[31m"
	green = "\x1b[32m"
	plain = "\x1b[0m"
	clear = "\r\x1b[K"
)

func (p *progress) paint(colour, s string) string {
	if !p.colour {
		return s
	}
	return colour + s + plain
}

// show prints one event.
func (p *progress) show(e scripting.Event) {
	if e.Kind == scripting.Progress && !p.terminal && !p.news(e) {
		return
	}
	if p.json != nil {
		if line, err := json.Marshal(e); err == nil {
			fmt.Fprintln(p.json, string(line))
		}
		return
	}
	if e.Kind == scripting.Progress {
		p.wait(e)
		return
	}
	switch {
	case e.Kind == scripting.PhaseFailed:
		p.failure = e.Error
	case e.Error == p.failure: // said already
		e.Error = ""
	}
	text := describe(e)
	if text == "" {
		return
	}
	colour := ""
	switch e.Kind {
	case scripting.PhaseDone, scripting.Finished, scripting.RolledBack:
		colour = green
	case scripting.PhaseFailed, scripting.Failed:
		colour = red
	}
	p.end()
	fmt.Fprintf(p.w, "%s  %s\n", p.paint(dim, e.At.Local().Format(time.TimeOnly)), p.paint(colour, text))
	p.beat = time.Now()
}

func (p *progress) wait(e scripting.Event) {
	line := fmt.Sprintf("%s  %s: %s", e.At.Local().Format(time.TimeOnly), e.Phase, e.Text)
	if p.terminal {
		fmt.Fprint(p.w, clear+p.paint(dim, cut(line, columns(p.w)-1)))
		p.pending = true
		return
	}
	fmt.Fprintln(p.w, line)
	p.beat = time.Now()
}

// worthSaying is how long a phase waits before a log is told what for.
const worthSaying = 1000

// switchProgress reads what a switch tells programs.
func switchProgress(e scripting.Event) (d builtins.SwitchProgress, ok bool) {
	return d, len(e.Detail) > 0 && json.Unmarshal(e.Detail, &d) == nil && d.Phase != ""
}

// news reports whether a progress says something else than the last one of its
// step, or the same after a long while.
func (p *progress) news(e scripting.Event) bool {
	key := e.Text
	if d, ok := switchProgress(e); ok {
		key = d.Phase + ": " + d.Waits // without times
		if p.json == nil && d.Waits != "" && d.PhaseMS < worthSaying {
			return false // most of it is over before anybody has read it
		}
	} else if time.Since(p.beat) < heartbeat && p.json == nil {
		return false // a text that counts something
	}
	was, ok := p.waits[e.Step]
	if ok && was.key == key && time.Since(was.at) < heartbeat {
		return false
	}
	if p.waits == nil {
		p.waits = map[string]waiting{}
	}
	p.waits[e.Step] = waiting{key, time.Now()}
	return true
}

// end finishes the line that is rewritten in place.
func (p *progress) end() {
	if p.pending {
		fmt.Fprint(p.w, clear)
		p.pending = false
	}
}

func cut(s string, width int) string {
	r := []rune(s)
	if len(r) <= width {
		return s
	}
	return string(r[:width-1]) + "…"
}

// longCall is how much of a call with its arguments is shown; JSON has all.
const longCall = 300

// describe is an event as one line, or "" for those that say nothing to people.
func describe(e scripting.Event) string {
	text := e.Text
	if e.Error != "" {
		text = e.Error
	}
	switch e.Kind {
	case scripting.Started, scripting.Resumed, scripting.RollingBack, scripting.Finished, scripting.Failed, scripting.RolledBack:
		return join(string(e.Kind), e.Run, text)
	case scripting.PhaseStarted, scripting.PhaseDone, scripting.PhaseFailed, scripting.PhaseUndone:
		return join("phase "+e.Phase, map[scripting.Kind]string{
			scripting.PhaseStarted: "began", scripting.PhaseDone: "done", scripting.PhaseFailed: "failed", scripting.PhaseUndone: "undone",
		}[e.Kind], e.Error)
	case scripting.Forked:
		return "  " + e.Text
	case scripting.BranchDone:
		return "    " + e.Text + " done"
	case scripting.BranchUndone:
		return join("    "+e.Branch, "undone")
	case scripting.BranchFailed:
		return join("    "+e.Branch, "failed", text)
	case scripting.Intent:
		if e.Branch != "" { // its end says enough
			return ""
		}
		call := text // with its arguments
		if call == "" {
			call = e.Builtin
		}
		return join("  "+cut(call, longCall), " "+e.Where)
	case scripting.Done:
		switch {
		case e.Builtin == "parallel":
			return ""
		case e.Error != "":
			return join("  "+e.Builtin, "failed", text)
		case text != "": // how an effect was settled of which nobody had known
			return join("  "+e.Builtin, text)
		}
		if e.Summary != "" {
			return "  " + e.Builtin + " done: " + e.Summary
		}
		return join("  "+e.Builtin, "done")
	case scripting.Note:
		return join("  |", text)
	}
	return ""
}

func join(parts ...string) string {
	out := ""
	for _, p := range parts {
		if p == "" {
			continue
		}
		if out != "" {
			out += " "
		}
		out += p
	}
	return out
}
