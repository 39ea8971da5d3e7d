package fleet

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/wire"
)

// Copies is what fleet needs to know of links.
type Copies interface {
	// Ends says which clusters a link joins.
	Ends(ctx context.Context, link starferry.LinkName) (source, target starferry.ClusterName, err error)
	// Opposite names the link that leads the other way between topics of a link, or
	// all of its topics if none is named; empty if there is none.
	Opposite(ctx context.Context, link starferry.LinkName, topics ...starferry.Topic) (starferry.LinkName, error)
	// Translate answers for a cut in one direction. It lets the copy pass the cut
	// first, for as long as wait; what is missing then is named in Behind.
	Translate(ctx context.Context, link starferry.LinkName, dir starferry.Direction, cut starferry.Cut, wait time.Duration) (starferry.Translation, error)
	// Passed lets the copy pass offsets of its source, for as long as wait, and says
	// how many of each partition it lacks then; those it lacks nothing of are left out.
	Passed(ctx context.Context, link starferry.LinkName, ends map[starferry.TopicPartition]starferry.Offset, wait time.Duration) (behind map[starferry.TopicPartition]int64, err error)
	// Health says how the lanes of some topics stand.
	Health(ctx context.Context, link starferry.LinkName, topics []starferry.Topic) (Health, error)
}

// Health is how the lanes of a link stand. A partition in neither map has no
// lane.
type Health struct {
	Lag     map[starferry.TopicPartition]int64  // records behind the source
	Stopped map[starferry.TopicPartition]string // why it will not move by itself
}

// Config is what a Fleet works with. It owns none of it.
type Config struct {
	Clusters map[starferry.ClusterName]*wire.Cluster
	Store    *desired.Store
	Copies   Copies
	// Now is the clock; nil means time.Now.
	Now    func() time.Time
	Logger *slog.Logger // nil discards
}

// Fleet acts on groups. It is safe for concurrent use and owns no goroutine
// beyond its calls.
type Fleet struct {
	c   Config
	log *slog.Logger
}

// Open checks a configuration. It reaches nothing.
func Open(c Config) (*Fleet, error) {
	switch {
	case len(c.Clusters) == 0:
		return nil, errors.New("open fleet: no cluster is configured; name at least one")
	case c.Store == nil:
		return nil, errors.New("open fleet: no store of desired state; configure NATS")
	case c.Copies == nil:
		return nil, errors.New("open fleet: nothing that knows the links")
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Logger == nil {
		c.Logger = slog.New(slog.DiscardHandler)
	}
	return &Fleet{c: c, log: c.Logger}, nil
}

func (f *Fleet) cluster(name starferry.ClusterName) (*wire.Cluster, error) {
	if c, ok := f.c.Clusters[name]; ok {
		return c, nil
	}
	var known []string
	for _, n := range f.names() {
		known = append(known, string(n))
	}
	return nil, fmt.Errorf("cluster %q is not configured; configured are %s", name, strings.Join(known, ", "))
}

func (f *Fleet) names() []starferry.ClusterName { return slices.Sorted(maps.Keys(f.c.Clusters)) }

// Home is where a group lives.
type Home struct {
	Group   starferry.Group
	Cluster starferry.ClusterName
	Epoch   starferry.Epoch
	Phase   control.Phase
	// Token is that of the request that brought it here, if one did.
	Token string
}

// Home says where a group lives, by what Kafka says on all clusters. For a group
// that has never been marked it is what its instances say, or the one cluster
// that knows it.
func (f *Fleet) Home(ctx context.Context, g starferry.Group) (Home, error) {
	v, err := f.Group(ctx, g)
	if err != nil {
		return Home{}, err
	}
	if v.Home.Cluster == "" {
		return Home{}, fmt.Errorf("find home of %s: %s; start the service, or check the name", g, v.unknown())
	}
	if h := v.Home; h.Token == "" && h.Epoch > 0 && (v.Placement == nil || !v.Placement.Open()) {
		if v.Home.Token, err = f.mover(ctx, h); err != nil {
			return Home{}, fmt.Errorf("find home of %s: %w", g, err)
		}
	}
	return v.Home, nil
}

// token makes a name for a request that came without one.
func token(t string) string {
	if t != "" {
		return t
	}
	return "t-" + strings.ToLower(rand.Text()[:16])
}
