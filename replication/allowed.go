package replication

import (
	"context"
	"errors"

	"github.com/starferry/starferry/internal/acl"
	"github.com/starferry/starferry/internal/wire"
)

// survey is the place of what a link's survey was denied, beside the buckets'.
const surveyed = -1

// allowed asks both clusters whether the link's topics may be read and written
// (KIP-430), once for each revision of the link, and again while they may not:
// better than to find out lane by lane. A cluster that does not answer denies
// nothing.
func (c *copier) allowed(ctx context.Context, spec LinkSpec) error {
	c.mu.Lock()
	asked := c.allowedAt == spec.Revision
	c.mu.Unlock()
	if asked {
		return nil
	}
	err := errors.Join(
		c.src.May(ctx, wire.WantTopics(spec.Topics, acl.Read)...),
		c.tgt.May(ctx, wire.WantTopics(spec.targets(), acl.Write, acl.Read, acl.DescribeConfigs)...))
	var denied *wire.DeniedError
	if errors.As(err, &denied) {
		return err
	}
	c.mu.Lock()
	c.allowedAt = spec.Revision
	c.mu.Unlock()
	return nil
}

// denial is what was denied to a shard that worked by a revision of the link.
type denial struct {
	revision uint64
	err      *wire.DeniedError
}

// deny keeps what the survey or a bucket was denied; any other outcome forgets
// it. Whoever asks for the link is told.
func (c *copier) deny(at int, revision uint64, err error) {
	var denied *wire.DeniedError
	c.mu.Lock()
	defer c.mu.Unlock()
	if errors.As(err, &denied) {
		c.denials[at] = denial{revision, denied}
	} else {
		delete(c.denials, at)
	}
}

// denied says what the shard may not do that it must, "" if nothing. What it was
// denied before the link was asked for again counts no more.
func (c *copier) denied() string {
	revision := c.wanted().Revision
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.denials {
		if d.revision == revision {
			return d.err.Error()
		}
	}
	return ""
}
