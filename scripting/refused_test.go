package scripting

import (
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func refusal(rows ...Row) *RefusedError {
	return &RefusedError{Op: "switch billing: prepare", Expected: "every member of the group to be a live instance", Rows: rows,
		Stands: "the group lives on old as before (epoch 3 is burnt); everyone is back at work there", Do: "mend it"}
}

func requireNarrow(t *testing.T, text string) {
	for _, line := range strings.Split(text, "\n") {
		require.LessOrEqual(t, utf8.RuneCountInString(line), Width, line)
	}
}

// A refusal is read at night: it stays within the screen, says what all rows
// have in common once, and names everything.
func TestARefusalIsATable(t *testing.T) {
	var rows []Row
	for i := range 3 {
		rows = append(rows, Row{Subject: fmt.Sprintf("legacy-billing-service-%d-4c5f2a9e-7d11-4b5a-9a0f-1f2e3d4c5b6a", i), What: "client id legacy-billing-service, host /10.20.30.40, on old",
			Why: "no live instance: it does not use the library, or not with this NATS", Do: "deploy the library to that host and give it the address of NATS, or stop it"})
	}
	text := refusal(rows...).Error()
	requireNarrow(t, indent(text))
	require.Equal(t, 1, strings.Count(text, "deploy the library"), text)
	require.Equal(t, 1, strings.Count(text, "no live instance"), text)
	require.NotContains(t, text, "mend it", "the rows say it better")
	require.Contains(t, strings.ReplaceAll(strings.Join(strings.Fields(text), " "), " ", ""), "legacy-billing-service-2")

	rows[1].Why, rows[1].Do = "frozen", "wake it"
	text = refusal(rows...).Error()
	requireNarrow(t, indent(text))
	require.Equal(t, 2, strings.Count(text, "  why "), text)
	text = refusal(Row{"orders/1", "at 7", "deleted", "read on"}, Row{"orders/2", "at 8", "unknown", "set it"}).Error()
	require.Contains(t, text, "WHAT TO DO")
}

func TestALongRefusalIsCutAndItsHeadlineIsOneLine(t *testing.T) {
	var rows []Row
	for i := range 30 {
		rows = append(rows, Row{Subject: fmt.Sprintf("orders/%d", i), What: "at 7 on old", Why: "deleted on old before it was copied"})
	}
	r := refusal(rows...)
	require.Contains(t, r.Error(), "and 10 more")
	require.NotContains(t, r.Headline(), "\n")
	require.Contains(t, r.Headline(), "30 reasons")
	require.Contains(t, refusal(rows[0]).Headline(), "found orders/0 at 7 on old: deleted on old")
}

func TestTablesWrapWithoutLosingAWord(t *testing.T) {
	long := strings.Repeat("x", 150)
	text := Table(60, []string{"a", "b"}, [][]string{{long, "two words"}, {"", "three"}})
	for _, line := range strings.Split(text, "\n") {
		require.LessOrEqual(t, len(line), 60)
	}
	require.Equal(t, 150, strings.Count(text, "x"))
	require.Contains(t, text, "three")
}
