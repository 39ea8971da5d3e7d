package acl

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// Each entry is what its requests need, and nothing is said twice.
func TestEntriesFitTheirRequests(t *testing.T) {
	seen := map[string]bool{}
	for _, e := range List() {
		key := strings.Join([]string{string(e.Part), string(e.On), string(e.Resource), e.Name, string(e.Operation)}, " ")
		require.False(t, seen[key], "twice: %s", key)
		seen[key] = true
		require.NotZero(t, e.Operation.Code(), key)
		require.NotEmpty(t, e.Why, key)
		require.NotEmpty(t, e.For, key)
		require.NotEmpty(t, e.Requests, key)
		exact := false
		for _, r := range e.Requests {
			need := NeededOn(r, e.Resource)
			require.True(t, e.Operation.Implies(need) && need != "", "%s: %s needs %q of a %s", key, r, need, e.Resource)
			exact = exact || need == e.Operation
		}
		require.True(t, exact, "%s: none of its requests needs just this", key)
	}
	for _, e := range List() {
		for _, o := range List() {
			if e.Part == o.Part && e.On == o.On && e.Resource == o.Resource && e.Name == o.Name && e.For == o.For && e.Operation != o.Operation {
				require.False(t, o.Operation.Implies(e.Operation), "%s %s of %s %s is implied by %s", e.Part, e.Operation, e.Resource, e.Name, o.Operation)
			}
		}
	}
}

// Every request that the product sends has its rights in the table, and every
// one of these that may be refused is some part's.
func TestEveryRequestOfTheProductIsKnown(t *testing.T) {
	sent := regexp.MustCompile(`kmsg\.NewPtr(\w+)Request\(`)
	root := filepath.Join("..", "..")
	found := map[string]bool{}
	for _, room := range []string{"internal/wire", "control", "replication", "agent", "builtins"} {
		require.NoError(t, filepath.WalkDir(filepath.Join(root, room), func(path string, d fs.DirEntry, err error) error {
			if err != nil {
				return err
			}
			if d.IsDir() && d.Name() == "demo" { // it has clusters of its own
				return fs.SkipDir
			}
			if d.IsDir() || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return nil
			}
			text, err := os.ReadFile(path)
			for _, m := range sent.FindAllStringSubmatch(string(text), -1) {
				found[m[1]] = true
			}
			return err
		}))
	}
	require.Greater(t, len(found), 20)
	for r := range found {
		if free(r) {
			continue
		}
		require.NotEmpty(t, Needed(r), "request %s is sent and the table does not know what it needs", r)
		require.True(t, slices.ContainsFunc(List(), func(e Entry) bool { return slices.Contains(e.Requests, r) }), "no part of the list sends %s", r)
	}
}

func TestLinesHaveRealNames(t *testing.T) {
	lines := func(p Part, n Names) string {
		var out []string
		for _, l := range Lines(slices.DeleteFunc(List(), func(e Entry) bool { return e.Part != p }), n) {
			out = append(out, l.Command("", "User:"+string(p)))
		}
		return strings.Join(out, "\n") + "\n"
	}
	agent := lines(Agent, Names{Topics: []string{"orders", "pay-*"}, Groups: []string{"billing"}, Retry: []string{"billing.retry"}})
	require.Contains(t, agent, "kafka-acls.sh --add --allow-principal User:agent --group billing --operation Describe\n")
	require.Contains(t, agent, "--topic orders --topic billing.retry --operation Describe\n", "retry topics are copied")
	require.Contains(t, agent, "--topic pay- --resource-pattern-type prefixed --operation Describe\n")
	require.Contains(t, agent, "--transactional-id starferry.producers.pay- --resource-pattern-type prefixed --operation Write\n")
	require.Contains(t, agent, "--transactional-id '*' --operation Describe\n")
	require.Contains(t, agent, "--topic billing.overflow- --resource-pattern-type prefixed --operation Delete\n")
	require.Contains(t, agent, "--topic billing.skipped --operation Create\n")
	require.Contains(t, lines(Agent, Names{Groups: []string{"pay-*"}}), "--topic pay- --resource-pattern-type prefixed --operation Delete\n")

	consumer := lines(Consumer, Names{Topics: []string{"orders"}, Groups: []string{"*"}, Dead: []string{"bill's dead"}})
	require.Contains(t, consumer, "--group '*' --operation Read\n")
	require.Contains(t, consumer, `--topic 'bill'\''s dead' --operation Write`)
	require.NotContains(t, consumer, "retry")
	require.Contains(t, lines(Shard, Names{Links: []string{"old-new"}}), "--transactional-id starferry.old-new. --resource-pattern-type prefixed --operation Write\n")
	require.Contains(t, lines(Shard, Names{}), "--cluster --operation DescribeConfigs\n")
}
