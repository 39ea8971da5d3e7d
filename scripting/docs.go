package scripting

import (
	"fmt"
	"strings"
)

// Text renders an entry of the registry for a terminal.
func (b *Builtin) Text() string {
	var s strings.Builder
	fmt.Fprintf(&s, "%s\n\n%s\n", signature(b), b.Doc)
	if len(b.Params) > 0 {
		s.WriteString("\n")
	}
	for _, p := range b.Params {
		need := ""
		if p.Required {
			need = ", required"
		}
		fmt.Fprintf(&s, "  %-14s %s (%s%s)\n", p.Name, p.Doc, p.Type.Name, need)
	}
	fmt.Fprintf(&s, "\nReturns %s. Kind: %s.\n", b.Returns, b.Class)
	if b.Example != "" {
		fmt.Fprintf(&s, "\n    %s\n", strings.ReplaceAll(b.Example, "\n", "\n    "))
	}
	return s.String()
}

// Doc lists all words with their summaries; Builtin.Text says more.
func (r *Registry) Doc() string {
	var s strings.Builder
	for _, b := range r.Builtins() {
		summary, _, _ := strings.Cut(b.Doc, "\n")
		fmt.Fprintf(&s, "%-18s %-8s %s\n", b.Name, b.Class, summary)
	}
	return s.String()
}
