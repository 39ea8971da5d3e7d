package builtins

import (
	"fmt"
	"strings"
	"time"

	"github.com/starferry/starferry"
)

// SwitchProgress is where a switch stands: its phase, and what the open barrier
// waits for.
type SwitchProgress struct {
	Group starferry.Group `json:"group"`
	Phase string          `json:"phase"`
	// Waits is the same as Rows in one line without times: it changes when what
	// is waited for does. Empty while the phase does its work.
	Waits     string       `json:"waits,omitempty"`
	Rows      []SwitchWait `json:"rows,omitempty"`
	More      int          `json:"more,omitempty"` // rows left out
	PhaseMS   int64        `json:"phase_ms"`       // since the phase began
	ElapsedMS int64        `json:"elapsed_ms"`     // since the switch was asked for
}

// SwitchWait is one thing that a barrier waits for.
type SwitchWait struct {
	Instance  starferry.InstanceID     `json:"instance,omitempty"`
	Member    string                   `json:"member,omitempty"` // that is no live instance
	Partition starferry.TopicPartition `json:"partition,omitzero"`
	Cluster   starferry.ClusterName    `json:"cluster,omitempty"`
	What      string                   `json:"what"` // "to join new"
	WaitedMS  int64                    `json:"waited_ms"`
}

func (w SwitchWait) who() string {
	switch {
	case w.Instance != "":
		return string(w.Instance)
	case w.Member != "":
		return w.Member
	case w.Partition.Topic != "":
		return w.Partition.String()
	}
	return ""
}

// shownWaits is how many things a line names.
const shownWaits = 4

// Line is the progress in one line with times, such as "billing: drain 0.4s: waits
// for billing-7f (orders/3) to finish record 1201: its handler is busy, for 2.1s".
func (p SwitchProgress) Line() string {
	head := fmt.Sprintf("%s: %s %s", p.Group, p.Phase, seconds(p.PhaseMS))
	if p.Waits == "" && p.PhaseMS < 100 {
		return fmt.Sprintf("%s: %s", p.Group, p.Phase)
	}
	if p.Waits == "" {
		return head
	}
	if len(p.Rows) == 0 {
		return head + ": waits for " + p.Waits
	}
	clauses := p.clauses()
	shown := clauses[:min(len(clauses), shownWaits)]
	line := head + ": waits for " + strings.Join(shown, "; ")
	if n := len(clauses) - len(shown) + p.More; n > 0 {
		line += fmt.Sprintf("; and %d more", n)
	}
	return line
}

// clauses puts together whoever is waited for to do the same.
func (p SwitchProgress) clauses() []string {
	busy := map[starferry.InstanceID]bool{} // the partitions say more than the instance
	for _, w := range p.Rows {
		busy[w.Instance] = busy[w.Instance] || w.Instance != "" && w.Partition.Topic != ""
	}
	var order []string
	whom, longest := map[string][]string{}, map[string]int64{}
	for _, w := range p.Rows {
		if busy[w.Instance] && w.Partition.Topic == "" {
			continue
		}
		who := w.who()
		if w.Instance != "" && w.Partition.Topic != "" {
			who += " (" + w.Partition.String() + ")"
		}
		if _, ok := whom[w.What]; !ok {
			order = append(order, w.What)
		}
		whom[w.What] = append(whom[w.What], who)
		longest[w.What] = max(longest[w.What], w.WaitedMS)
	}
	var out []string
	for _, what := range order {
		who := whom[what]
		text := strings.Join(who[:min(len(who), 3)], ", ")
		if n := len(who) - 3; n > 0 {
			text += fmt.Sprintf(" and %d more", n)
		}
		text = strings.TrimSpace(text + " " + what)
		if longest[what] >= 1000 {
			text += ", for " + seconds(longest[what])
		}
		out = append(out, text)
	}
	return out
}

func seconds(ms int64) string {
	d := time.Duration(ms) * time.Millisecond
	if d >= time.Minute {
		return d.Round(time.Second).String()
	}
	return fmt.Sprintf("%.1fs", d.Seconds())
}
