package consumer

import (
	"fmt"

	"github.com/segmentio/kafka-go"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control/switchover"
)

// name is the group.instance.id, or "" for an ordinary member.
func (c Config) name() string {
	if !c.Static {
		return ""
	}
	return string(c.Instance)
}

// static is name as requests carry it.
func (c Config) static() *string {
	if !c.Static {
		return nil
	}
	name := c.name()
	return &name
}

// ousted: another process has joined as the same static member, and the
// coordinator refuses this one from now on. Joining again would only oust the
// other, and so for ever. Its lease is the other's too by now, so it writes none.
func (c *Consumer) ousted(cluster starferry.ClusterName) {
	c.oust = fmt.Sprintf("another process joined the group on %s as %q (FENCED_INSTANCE_ID): this one, boot %s on %s, has stopped handing out; give each process an Instance of its own, or end this one",
		cluster, c.cfg.Instance, c.boot, c.host)
	c.log.Error("fenced by another process of the same name", "cluster", cluster, "reason", c.oust)
	c.step(switchover.Lost{Cluster: cluster, Reason: kafka.FencedInstanceID.Title()})
}
