package acl

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

var rewrite = flag.Bool("rewrite", false, "rewrite the list in docs/kafka-acls.md")

// The lines between which the documentation is made of the list.
const (
	listBegins = "<!-- the list: go test ./internal/acl -rewrite -->\n"
	listEnds   = "<!-- end of the list -->\n"
)

// The documentation says what the list says.
func TestDocumentation(t *testing.T) {
	path := filepath.Join("..", "..", "docs", "kafka-acls.md")
	page, err := os.ReadFile(path)
	require.NoError(t, err)
	before, rest, ok := strings.Cut(string(page), listBegins)
	require.True(t, ok)
	list, after, ok := strings.Cut(rest, listEnds)
	require.True(t, ok)
	want := documented()
	if *rewrite {
		require.NoError(t, os.WriteFile(path, []byte(before+listBegins+want+listEnds+after), 0o644))
		return
	}
	require.Equal(t, want, list, "docs/kafka-acls.md is not what the list says; go test ./internal/acl -rewrite")
}

// documented is the list as the documentation shows it.
func documented() string {
	var b strings.Builder
	titles := map[Part]string{Agent: "The agent, and the command line", Shard: "Shards", Consumer: "Services with the consumer library", Producer: "Services with the producer library"}
	names := Names{Topics: []string{"orders"}, Groups: []string{"billing"}, Links: []string{"old-new"}, Retry: []string{"billing.retry"}, Dead: []string{"billing.dead"}}
	for _, p := range Parts() {
		entries := slices.DeleteFunc(List(), func(e Entry) bool { return e.Part != p })
		fmt.Fprintf(&b, "\n## %s\n\n| on | resource | operation | for | why | requests |\n|---|---|---|---|---|---|\n", titles[p])
		for _, e := range entries {
			on, name := string(e.On), "`"+e.Name+"`"
			if e.On == Every {
				on = "every"
			}
			if e.Prefixed {
				name += ", prefixed"
			}
			fmt.Fprintf(&b, "| %s | %s %s | `%s` | %s | %s | %s |\n", on, e.Resource, name, e.Operation, e.For, e.Why, strings.Join(e.Requests, ", "))
		}
		b.WriteString("\n```sh\n")
		title := ""
		for _, l := range Lines(entries, names) {
			if l.Title() != title {
				title = l.Title()
				fmt.Fprintf(&b, "# %s\n", title)
			}
			fmt.Fprintln(&b, l.Command("", "User:starferry-"+string(p)))
		}
		b.WriteString("```\n")
	}
	return b.String()
}
