package wire

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/segmentio/kafka-go"
	"github.com/twmb/franz-go/pkg/kmsg"

	"github.com/starferry/starferry"
)

// retryWithin bounds how long requests are repeated whose context does not end.
const retryWithin = time.Minute

// Backoff between repetitions.
const (
	firstPause = 20 * time.Millisecond
	lastPause  = time.Second
)

// coordinator names who coordinates: a group (kind 0) or a transactional id (1).
type coordinator struct {
	kind int8
	key  string
}

func (k coordinator) String() string {
	if k.kind == 1 {
		return "transactional id " + k.key
	}
	return "group " + k.key
}

// Do sends a request to any broker. Requests that read are repeated on another
// connection if the first one broke.
func (c *Cluster) Do(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	return c.twice(ctx, req, func() (*Conn, error) { return c.anyConn(ctx) })
}

// DoOn sends a request to one broker over the shared connection, or over one of
// its own if the broker may hold the answer back (JoinGroup, SyncGroup, Fetch).
func (c *Cluster) DoOn(ctx context.Context, broker int32, req kmsg.Request) (kmsg.Response, error) {
	if holds(req) {
		return c.exclusive(ctx, broker, req)
	}
	return c.twice(ctx, req, func() (*Conn, error) { return c.sharedConn(ctx, broker) })
}

// twice sends a request, and once more if the connection turned out to be
// broken and the request may be repeated.
func (c *Cluster) twice(ctx context.Context, req kmsg.Request, get func() (*Conn, error)) (kmsg.Response, error) {
	for again := true; ; again = false {
		conn, err := get()
		if err != nil {
			return nil, err
		}
		resp, err := conn.Do(ctx, req)
		if err == nil || !again || ctx.Err() != nil || !repeatable(req, err) || conn.Err() == nil {
			return resp, err
		}
	}
}

// DoController sends a request to the controller, and again if it has moved.
func (c *Cluster) DoController(ctx context.Context, req kmsg.Request) (kmsg.Response, error) {
	wait := c.newBackoff(retryWithin)
	for {
		m, err := c.Metadata(ctx)
		if err != nil {
			return nil, err
		}
		var resp kmsg.Response
		if m.Controller < 0 {
			err = fmt.Errorf("%w: cluster %q has no controller now", ErrNotSent, c.conf.Name)
		} else if resp, err = c.DoOn(ctx, m.Controller, req); err == nil {
			if err = controllerMoved(resp); err == nil {
				return resp, nil
			}
		}
		if (err != nil && !errors.Is(err, kafka.NotController) && !repeatable(req, err)) || !wait.next(ctx, err) {
			return resp, err
		}
	}
}

// DoGroup sends a request to a group's coordinator. If the coordinator has
// moved, is loading or cannot be reached, the request is repeated until ctx
// ends, at most a minute. A request that changes something and was not answered
// is not repeated: the error wraps ErrNoAnswer.
func (c *Cluster) DoGroup(ctx context.Context, g starferry.Group, req kmsg.Request) (kmsg.Response, error) {
	return c.coordinated(ctx, coordinator{0, string(g)}, req)
}

// DoTxn sends a request to the coordinator of a transactional id, repeated as
// DoGroup does, and also while an earlier transaction is still being ended.
func (c *Cluster) DoTxn(ctx context.Context, txid string, req kmsg.Request) (kmsg.Response, error) {
	return c.coordinated(ctx, coordinator{1, txid}, req)
}

func (c *Cluster) coordinated(ctx context.Context, at coordinator, req kmsg.Request) (kmsg.Response, error) {
	wait := c.newBackoff(retryWithin)
	var before error // why it was tried again
	for {
		broker, err := c.coordinator(ctx, at)
		var resp kmsg.Response
		if err == nil {
			resp, err = c.DoOn(ctx, broker, req)
		}
		if err == nil {
			if err = tryAgain(resp); err == nil {
				return resp, c.refused(at, req, resp)
			}
			if err == kafka.ConcurrentTransactions {
				wait.reset()
			} else {
				c.forgetCoordinator(at)
			}
		} else {
			c.forgetCoordinator(at)
			if !repeatable(req, err) && !between(err) {
				return nil, err
			}
		}
		if ctx.Err() != nil && before != nil {
			err = fmt.Errorf("%w: before that: %v", err, before) // its kind is not this one's
		}
		if !wait.next(ctx, err) {
			return nil, fmt.Errorf("%s at the coordinator of %s on cluster %q: %w", kmsg.NameForKey(req.Key()), at, c.conf.Name, err)
		}
		before = err
	}
}

// coordinator returns the broker that coordinates, from what is remembered if
// it can.
func (c *Cluster) coordinator(ctx context.Context, at coordinator) (int32, error) {
	c.mu.Lock()
	broker, ok := c.coords[at]
	c.mu.Unlock()
	if ok {
		return broker, nil
	}
	req := kmsg.NewPtrFindCoordinatorRequest()
	req.CoordinatorKey, req.CoordinatorType = at.key, at.kind
	r, err := c.Do(ctx, req)
	if err != nil {
		return -1, fmt.Errorf("find coordinator of %s: %w", at, err)
	}
	resp := r.(*kmsg.FindCoordinatorResponse)
	if err := c.Denied(kmsg.FindCoordinator, coded(resp.ErrorCode, resp.ErrorMessage), On{Group: starferry.Group(at.key), TxID: at.key}); err != nil {
		return -1, fmt.Errorf("find coordinator of %s: %w", at, err)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, known := c.nodes[resp.NodeID]; !known {
		c.nodes[resp.NodeID] = Broker{ID: resp.NodeID, Host: resp.Host, Port: resp.Port}
	}
	c.coords[at] = resp.NodeID
	return resp.NodeID, nil
}

func (c *Cluster) forgetCoordinator(at coordinator) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.coords, at)
}

// retriable reports whether a failed connection may be tried again.
func retriable(err error) bool {
	var auth *AuthError
	var version *VersionError
	if errors.As(err, &auth) && !errors.Is(auth.Err, io.EOF) {
		return false
	}
	return !errors.As(err, &version) && !errors.Is(err, ErrClosed)
}

// repeatable reports whether a request whose connection failed may be sent
// again without doing something twice.
func repeatable(req kmsg.Request, err error) bool {
	if !retriable(err) {
		return false
	}
	return errors.Is(err, ErrNotSent) || (errors.Is(err, ErrNoAnswer) && harmless(req))
}

// harmless reports whether sending a request twice is the same as sending it
// once.
func harmless(req kmsg.Request) bool {
	switch r := req.(type) {
	case *kmsg.MetadataRequest, *kmsg.ListOffsetsRequest, *kmsg.OffsetFetchRequest, *kmsg.FindCoordinatorRequest,
		*kmsg.DescribeGroupsRequest, *kmsg.ConsumerGroupDescribeRequest, *kmsg.ListGroupsRequest, *kmsg.DescribeConfigsRequest, *kmsg.FetchRequest,
		*kmsg.OffsetForLeaderEpochRequest, *kmsg.DescribeClusterRequest, *kmsg.DescribeProducersRequest,
		*kmsg.DescribeTransactionsRequest, *kmsg.ListTransactionsRequest, *kmsg.ApiVersionsRequest,
		*kmsg.HeartbeatRequest, *kmsg.SyncGroupRequest, *kmsg.AddPartitionsToTxnRequest:
		return true
	case *kmsg.JoinGroupRequest:
		return r.MemberID != "" || r.InstanceID != nil // without either a second member would be made
	}
	return false
}

// backoff spaces repetitions.
type backoff struct {
	c     *Cluster
	until time.Time
	pause time.Duration
}

func (c *Cluster) newBackoff(within time.Duration) *backoff {
	return &backoff{c: c, until: time.Now().Add(within), pause: firstPause}
}

func (b *backoff) reset() { b.pause = firstPause }

// next waits before the next try; false if there is none.
func (b *backoff) next(ctx context.Context, why error) bool {
	if time.Now().Add(b.pause).After(b.until) {
		return false
	}
	b.c.log.Debug("trying again", "in", b.pause, "why", why)
	t := time.NewTimer(b.pause/2 + rand.N(b.pause/2+1))
	defer t.Stop()
	b.pause = min(2*b.pause, lastPause)
	select {
	case <-t.C:
		return true
	case <-ctx.Done():
		return false
	case <-b.c.ctx.Done():
		return false
	}
}
