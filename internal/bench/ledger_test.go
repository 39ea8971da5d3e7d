package bench

import (
	"io"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// at is a moment of a story.
func at(ms int) time.Time { return time.UnixMilli(1_000_000 + int64(ms)) }

func TestTheLedgerTellsLossFromDisorderFromRepeats(t *testing.T) {
	l := newLedger(2)
	for i, n := range []int64{0, 1, 3, 2, 2, 5} {
		l.handled("old", 0, n, at(i))
	}
	l.handled("old", 1, 0, at(9))
	got := l.sums([]int64{7, 2})
	require.Equal(t, sums{handled: 6, lost: 3, twice: 1, late: 1}, got, "4 and 6 of one partition and 1 of the other are lost")
	require.EqualValues(t, 6, l.total())
}

func TestAGapLastsFromTheLastRecordHereToTheFirstThere(t *testing.T) {
	l := newLedger(2)
	l.handled("old", 0, 0, at(0))
	l.handled("old", 1, 0, at(5))
	all := l.watch("new")
	l.handled("old", 0, 1, at(10)) // the switch has not come yet
	l.handled("new", 0, 2, at(40))
	select {
	case <-all:
		t.Fatal("the other partition still stands")
	default:
	}
	l.handled("new", 1, 1, at(25))
	<-all
	require.Equal(t, 30*time.Millisecond, l.gap())
	l.handled("new", 0, 3, at(100))
	require.Equal(t, 30*time.Millisecond, l.gap(), "it is closed")
}

func TestADelayLineDelaysWithoutHoldingUpWhatFollows(t *testing.T) {
	echo, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer echo.Close()
	go func() {
		c, err := echo.Accept()
		if err != nil {
			return
		}
		defer c.Close()
		_, _ = io.Copy(c, c)
	}()
	const each = 50 * time.Millisecond
	line, err := openDelayLine(echo.Addr().String(), each)
	require.NoError(t, err)
	defer func() { require.NoError(t, line.Close()) }()
	c, err := net.Dial("tcp", line.Addr())
	require.NoError(t, err)
	defer c.Close()
	began := time.Now()
	for range 20 {
		_, err := c.Write([]byte("x"))
		require.NoError(t, err)
	}
	_, err = io.ReadFull(c, make([]byte, 20))
	require.NoError(t, err)
	require.GreaterOrEqual(t, time.Since(began), 2*each)
	require.Less(t, time.Since(began), 20*each, "one after the other")
}
