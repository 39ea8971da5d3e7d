package consumer_test

import (
	"context"
	"errors"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/stretchr/testify/require"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/consumer"
	"github.com/starferry/starferry/internal/kafkatest"
)

// said is what a handler of batches was given, and what it is to answer.
type said struct {
	mu      sync.Mutex
	batches [][]string // values, in the order of the calls
	tries   []int
	answer  func(call int, rs []consumer.Record) error
}

func (s *said) handle(_ context.Context, rs []consumer.Record) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	var values []string
	for _, r := range rs {
		values = append(values, string(r.Value))
	}
	s.batches, s.tries = append(s.batches, values), append(s.tries, rs[0].Tries)
	return s.answer(len(s.batches)-1, rs)
}

func (s *said) calls() ([][]string, []int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([][]string{}, s.batches...), append([]int{}, s.tries...)
}

// numbers writes 0 to n-1 in one batch, so that handlers get them at once.
func (e *estate) numbers(n int) {
	e.t.Helper()
	var recs []kafka.Message
	for i := range n {
		recs = append(recs, kafka.Message{Value: []byte(strconv.Itoa(i))})
	}
	kafkatest.Produce(e.t, e.old, e.topic, 0, recs...)
}

func (e *estate) openBatches(s *said, change ...func(*consumer.Config)) *consumer.Consumer {
	e.t.Helper()
	cfg := e.config("a")
	cfg.RetryMin, cfg.RetryMax = 5*time.Millisecond, 5*time.Millisecond
	for _, f := range change {
		f(&cfg)
	}
	c, err := consumer.OpenBatches(context.Background(), cfg, s.handle)
	require.NoError(e.t, err)
	e.t.Cleanup(func() { closeIn(e.t, c) })
	return c
}

var errNo = errors.New("no")

// What a handler has handled of a batch is not handed out again, not even by
// another process that goes on where this one was closed.
func TestPartOfABatchIsHandled(t *testing.T) {
	e := newEstate(t, 1)
	e.numbers(6)
	never := &said{answer: func(_ int, rs []consumer.Record) error {
		errs := make([]error, len(rs))
		for i, r := range rs {
			if v := string(r.Value); v == "1" || v == "3" {
				errs[i] = errNo
			}
		}
		return &consumer.Partly{Errs: errs}
	}}
	c := e.openBatches(never)
	require.Eventually(t, func() bool { all, _ := never.calls(); return len(all) >= 3 }, patience, time.Millisecond)
	all, tries := never.calls()
	require.Equal(t, []string{"0", "1", "2", "3", "4", "5"}, all[0])
	require.Equal(t, []string{"1", "3"}, all[1])
	require.Equal(t, []int{0, 1, 2}, tries[:3])
	late, cancel := context.WithTimeout(context.Background(), 200*time.Millisecond)
	defer cancel()
	_ = c.Close(late) // two records are never handled
	heir := &said{answer: func(int, []consumer.Record) error { return nil }}
	e.openBatches(heir)
	e.committed(e.old, 0, 6)
	all, _ = heir.calls()
	require.Equal(t, [][]string{{"1"}, {"3"}}, all, "between them lies what was handled")
}

// A record that is hopeless goes where records go that are given up, alone and
// at once; what a handler has not tried is no attempt.
func TestHopelessAndUntried(t *testing.T) {
	e := newEstate(t, 1)
	e.numbers(5)
	dead := kafkatest.Topic(t, e.old, 1, nil)
	s := &said{}
	s.answer = func(call int, rs []consumer.Record) error {
		if call < 10 {
			return &consumer.Again{Untried: true, Err: errNo}
		}
		errs := make([]error, len(rs))
		for i, r := range rs {
			if string(r.Value) == "2" {
				errs[i] = &consumer.Hopeless{Err: errors.New("no such customer")}
			}
		}
		return &consumer.Partly{Errs: errs}
	}
	e.openBatches(s, func(c *consumer.Config) { c.Failure = consumer.Failure{Attempts: 3, DeadLetter: dead} })
	e.committed(e.old, 0, 5)
	all, tries := s.calls()
	require.Len(t, all, 11, "ten times nothing was tried, and then all was said at once")
	require.Zero(t, tries[10])
	got := kafkatest.Records(t, e.old, dead, 0)
	require.Len(t, got, 1)
	require.Equal(t, "2", string(got[0].Value))
	require.Contains(t, headers(got[0].Headers)["starferry.error"], "no such customer")
	require.Equal(t, "1", headers(got[0].Headers)["starferry.attempts"])
}

// A batch that is hopeless as a whole is taken apart; without a dead-letter
// topic the record that is hopeless waits, as any that fails.
func TestAHopelessBatchIsTakenApart(t *testing.T) {
	for _, kept := range []bool{true, false} {
		e := newEstate(t, 1)
		e.numbers(3)
		var dead starferry.Topic
		if kept {
			dead = kafkatest.Topic(t, e.old, 1, nil)
		}
		s := &said{answer: func(call int, rs []consumer.Record) error {
			if len(rs) > 1 || string(rs[0].Value) == "1" && (kept || call < 4) {
				if !kept && call > 1 {
					return nil
				}
				return &consumer.Hopeless{Err: errNo}
			}
			return nil
		}}
		e.openBatches(s, func(c *consumer.Config) {
			if kept {
				c.Failure = consumer.Failure{Attempts: 100, DeadLetter: dead}
			}
		})
		e.committed(e.old, 0, 3)
		if kept {
			require.Len(t, kafkatest.Records(t, e.old, dead, 0), 1)
		}
	}
}

// A record comes again no sooner than its handler says.
func TestAHandlerSaysWhenARecordComesAgain(t *testing.T) {
	e := newEstate(t, 1)
	e.numbers(1)
	const pause = 300 * time.Millisecond
	var when []time.Time
	s := &said{}
	s.answer = func(call int, _ []consumer.Record) error {
		if when = append(when, time.Now()); call == 0 {
			return &consumer.Again{After: pause, Err: errNo}
		}
		return nil
	}
	e.openBatches(s)
	e.committed(e.old, 0, 1)
	require.Len(t, when, 2)
	require.GreaterOrEqual(t, when[1].Sub(when[0]), pause)
}

// What waits of one partition is handed out together, however small the batches
// are that it came in.
func TestSmallBatchesAreHandedOutTogether(t *testing.T) {
	e := newEstate(t, 1)
	begun, hold := make(chan struct{}), make(chan struct{})
	s := &said{}
	s.answer = func(call int, _ []consumer.Record) error {
		if call == 0 {
			close(begun)
			<-hold
		}
		return nil
	}
	c := e.openBatches(s)
	e.produce(0, 1, e.old)
	<-begun
	for range 20 { // one by one, while the first is in hand
		e.produce(0, 1, e.old)
	}
	require.Eventually(t, func() bool {
		l, err := c.State(t.Context())
		return err == nil && len(l.Partitions) == 1 && l.Partitions[0].End == 21
	}, patience, time.Millisecond)
	close(hold)
	e.committed(e.old, 0, 21)
	all, _ := s.calls()
	require.Len(t, all, 2, "%v", all)
}
