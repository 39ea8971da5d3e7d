package switchover

import (
	"flag"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

var searchOne = flag.String("search-one", "back;1;1;takeover", "searches, such as 'forward decide;1;2;crash,freeze|back evict;1;1;all' (begin;partitions;faults;kinds, and perhaps ;planted bug)")

// TestChosenSearches runs the searches that -search-one names, for -search-for each.
func TestChosenSearches(t *testing.T) {
	for _, one := range strings.Split(*searchOne, "|") {
		f := strings.Split(one, ";")
		start, evict := strings.CutSuffix(f[0], " evict")
		require.GreaterOrEqual(t, len(f), 4, "-search-one %q: begin;partitions;faults;kinds", one)
		parts, err := strconv.Atoi(f[1])
		require.NoError(t, err)
		faults, err := strconv.Atoi(f[2])
		require.NoError(t, err)
		h := hunt{start: start, parts: parts, faults: uint8(faults), kinds: strings.Split(f[3], ","), evict: evict}
		if f[3] == "all" {
			h.kinds = allFaults
		}
		if len(f) > 4 {
			h.bug = bug(f[4])
		}
		lim := limits{live: true, memory: 12 << 30}
		if *searchFor > 0 {
			lim.until = time.Now().Add(*searchFor)
		}
		r := h.run(t, lim)
		t.Logf("%s: %s", h, r)
		if r.wrong != "" {
			t.Errorf("%s\n%s%s", h, story(r.trace), r.wrong)
		}
	}
}
