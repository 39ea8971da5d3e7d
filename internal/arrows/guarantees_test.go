package arrows

import (
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

// quotedWords is how many of a guarantee's first words a test has to quote.
const quotedWords = 4

// TestEveryGuaranteeIsQuotedByATest: a promise nobody tests is no promise. A
// test that proves guarantee 3 says so in a comment: its number and the
// beginning of its sentence, in the words of ARCHITECTURE.md.
func TestEveryGuaranteeIsQuotedByATest(t *testing.T) {
	dir := root(t)
	promised := guarantees(text(t, filepath.Join(dir, "ARCHITECTURE.md")))
	require.NotEmpty(t, promised, `ARCHITECTURE.md has no section "Guarantees" with a numbered list`)
	quoted := quotes(t, dir)
	for i, sentence := range promised {
		n := fmt.Sprint(i + 1)
		proven := slices.ContainsFunc(quoted[n], func(q string) bool { return matches(sentence, q) })
		assert.True(t, proven, "no test quotes guarantee %s (%q); quotes found: %q", n, sentence, quoted[n])
	}
}

var (
	item  = regexp.MustCompile(`(?m)^\d+\. \*\*(.+?)\*\*`)
	quote = regexp.MustCompile(`Guarantee (\d+): (.+)`)
)

// guarantees returns the bold sentences of the numbered list in the section
// "Guarantees", in order.
func guarantees(architecture string) []string {
	_, section, found := strings.Cut(architecture, "\n## Guarantees\n")
	if !found {
		return nil
	}
	section, _, _ = strings.Cut(section, "\n## ")
	joined := strings.ReplaceAll(section, "\n   ", " ")
	var list []string
	for _, m := range item.FindAllStringSubmatch(joined, -1) {
		list = append(list, m[1])
	}
	return list
}

// quotes returns what the repository's test files quote of each guarantee, by
// its number.
func quotes(t *testing.T, dir string) map[string][]string {
	t.Helper()
	found := map[string][]string{}
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() && path != dir && strings.HasPrefix(d.Name(), ".") {
			return filepath.SkipDir
		}
		if d.IsDir() || !strings.HasSuffix(path, "_test.go") || filepath.Base(filepath.Dir(path)) == "arrows" {
			return nil
		}
		for _, m := range quote.FindAllStringSubmatch(text(t, path), -1) {
			found[m[1]] = append(found[m[1]], m[2])
		}
		return nil
	})
	require.NoError(t, err)
	return found
}

// matches reports whether a quote begins as the sentence does.
func matches(sentence, quote string) bool {
	s, q := words(sentence), words(quote)
	n := min(quotedWords, len(s))
	return len(q) >= n && slices.Equal(s[:n], q[:n])
}

func words(s string) []string {
	return strings.FieldsFunc(strings.ToLower(s), func(r rune) bool { return !('a' <= r && r <= 'z' || '0' <= r && r <= '9') })
}

// TestGuaranteesAreRead proves that the search can fail.
func TestGuaranteesAreRead(t *testing.T) {
	page := "# A\n\n## Guarantees\n\n1. **Nothing is\n   ever lost.** Proven so.\n2. **One commit decides.** And so.\n\n## Next\n\n1. **Not a guarantee.**\n"
	assert.Equal(t, []string{"Nothing is ever lost.", "One commit decides."}, guarantees(page))
	assert.True(t, matches("Nothing is ever lost, nor doubled.", "nothing is ever lost …"))
	assert.False(t, matches("Nothing is ever lost, nor doubled.", "nothing is"))
	assert.False(t, matches("Nothing is ever lost.", "something is ever lost"))
}
