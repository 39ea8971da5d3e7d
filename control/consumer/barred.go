package consumer

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry/internal/wire"
)

// bar tells why the group was not joined. What will not pass by itself is said
// in words, once, and stands in the lease and in Health until it has passed.
func (m *membership) bar(ctx context.Context, code kafka.Error, err error) {
	why := m.why(ctx, code, err)
	was := m.barred.Load()
	switch {
	case why == "":
		m.c.log.Warn("join group", "cluster", m.name, "error", err)
		return
	case was != nil && *was == why:
		return
	}
	m.barred.Store(&why)
	m.c.log.Error("group cannot be joined", "cluster", m.name, "reason", why, "error", err)
	m.c.post(m.c.publish)
}

// why says in words what a refusal to join means and what to do; "" for one that
// passes.
func (m *membership) why(ctx context.Context, code kafka.Error, err error) string {
	cannot := fmt.Sprintf("cannot join group %s on %s: ", m.c.cfg.Group, m.name)
	switch code {
	case kafka.InconsistentGroupProtocol:
		return cannot + m.protocols(ctx)
	case kafka.GroupAuthorizationFailed, kafka.TopicAuthorizationFailed:
		return cannot + deniedWords(err)
	case kafka.InvalidSessionTimeout:
		return cannot + fmt.Sprintf("its brokers do not allow a session of %s: set SessionTimeout between their group.min.session.timeout.ms and group.max.session.timeout.ms", m.c.cfg.SessionTimeout)
	case kafka.GroupMaxSizeReached:
		return cannot + "it has as many members as its brokers allow (group.max.size): raise that, or run fewer instances"
	}
	return ""
}

// deniedWords says which ACL lacks.
func deniedWords(err error) string {
	var denied *wire.DeniedError
	if errors.As(err, &denied) {
		return denied.Error()
	}
	return err.Error()
}

// protocols says with whom there is nothing in common.
func (m *membership) protocols(ctx context.Context) string {
	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
	defer cancel()
	d, err := m.wc.DescribeGroup(ctx, m.c.cfg.Group)
	switch {
	case err == nil && d.ProtocolType != "" && d.ProtocolType != "consumer":
		return fmt.Sprintf("it is no group of consumers, its members are of type %q: give the service a group of its own, or wait until they have left", d.ProtocolType)
	case err == nil && d.Protocol != "":
		return fmt.Sprintf("its members divide partitions by %q, and this library knows range, roundrobin, sticky and cooperative-sticky: set partition.assignment.strategy of the others to one of these as well, and restart them", d.Protocol)
	}
	return "its members divide partitions by none of range, roundrobin, sticky and cooperative-sticky: set partition.assignment.strategy of the others to one of these as well, and restart them"
}
