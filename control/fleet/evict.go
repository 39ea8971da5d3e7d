package fleet

import (
	"context"
	"fmt"
	"strings"

	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/internal/wire"
)

// evict removes stragglers from the group. What becomes of it shows in the next
// description of the group; the driver orders it again if need be.
func (s *run) evict(ctx context.Context, e switchover.EvictMembers) {
	ctx, cancel := context.WithTimeout(ctx, readTimeout)
	defer cancel()
	var members []wire.GroupMember
	var names []string
	for _, m := range e.Members {
		members = append(members, wire.GroupMember{ID: m.ID, InstanceID: m.Static})
		names = append(names, fmt.Sprintf("%s (%s)", m.Client, m.ID))
	}
	detail := fmt.Sprintf("from %s: %s; %s", e.Cluster, strings.Join(names, ", "), e.Why)
	err := s.f.c.Store.Audit(ctx, desired.Event{Group: s.o.Group, What: "evict", Who: s.o.By, Why: s.o.Why, Token: s.o.Token,
		When: s.f.c.Now().UnixMilli(), Detail: detail})
	if err == nil {
		err = s.remove(ctx, e, members)
	}
	if err != nil {
		s.f.log.Warn("evict stragglers", "group", s.o.Group, "cluster", e.Cluster, "members", names, "error", err)
		return
	}
	s.f.log.Info("stragglers were removed", "group", s.o.Group, "cluster", e.Cluster, "members", names, "why", e.Why)
}

func (s *run) remove(ctx context.Context, e switchover.EvictMembers, members []wire.GroupMember) error {
	w, err := s.f.cluster(e.Cluster)
	if err != nil {
		return err
	}
	return w.RemoveMembers(ctx, s.o.Group, members, "starferry: "+e.Why)
}
