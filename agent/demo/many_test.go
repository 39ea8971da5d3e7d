package demo

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// Groups that share topics are moved in waves by the script that ships. One of
// them cannot be moved: its wave stops there, the rest is untouched. Mended, the
// run goes on to the end; a rollback brings all back.
func TestManyGroupsMoveInWaves(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	ctx, cancel := context.WithTimeout(t.Context(), 4*time.Minute)
	defer cancel()
	r, err := RunMany(ctx, Options{
		Groups: 12, Rate: 300, DataDir: t.TempDir(), AtOnce: 4, Back: true, patience: 1500 * time.Millisecond,
		Say: func(format string, args ...any) { t.Logf(format, args...) },
	})
	require.NoError(t, err)
	require.Zero(t, r.Lost)
	require.Zero(t, r.Twice)
	require.Zero(t, r.OutOfOrder)
	require.Greater(t, r.Produced, int64(100), "without traffic it proves nothing")
	require.GreaterOrEqual(t, r.AtStop, 4, "bronze went before")
	require.GreaterOrEqual(t, r.Untouched, 5, "gold, and the one that was in the way")
	require.Contains(t, r.Stopped, string(r.Victim))
	require.Equal(t, "canary", r.Waves[0].Title)
	moved := 0
	for _, w := range r.Waves {
		require.Equal(t, w.Groups, w.Done, w.Title)
		moved += w.Done
	}
	require.Equal(t, 12, moved)
}

func TestWrongNumbersOfGroups(t *testing.T) {
	for _, o := range []Options{{Groups: 1}, {Groups: 3000}, {Groups: 10, Keep: true}, {Groups: 10, Source: "a:1", Target: "b:1"}} {
		_, err := RunMany(t.Context(), o)
		require.Equal(t, scripting.ExitUsage, scripting.ExitCode(err))
		require.ErrorContains(t, err, "want --groups from 4")
	}
	require.Equal(t, starferry.Topic("topic-0000"), newMany(Options{Groups: 4}).reads["group-0003"][2], "neighbours share topics")
}
