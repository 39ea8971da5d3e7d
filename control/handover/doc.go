// Package handover is the protocol by which the producers of a topic go from one
// cluster to another: Follower is one topic of one producer, Driver is the agent.
// It is pure: events in, ordered effects out; no clock, network or logger.
//
// # How it goes
//
//	agent    look ─► session ─► prepare ─► hold ─► cut ─► decide ─► announce ─► steady
//	producer                    warm       hold, flushed            enter
//
// # Rules
//
//   - The decision is a transaction on the old cluster under a transactional id
//     of the topic, whose epoch the agent took (the session) before it ordered
//     the hold. Whoever takes the id afterwards makes that decision impossible.
//   - So a producer that holds and hears nothing takes the id itself and reads:
//     the topic has moved, or it never will by this order. No NATS, no agent.
//   - An agent that takes a switch over does so with a new session and a new
//     epoch; it never finishes the hold of another.
//   - It is decided only when every live producer has said, for this epoch, that
//     nothing is under way, and the copy has passed the ends of the log that were
//     read after that. So nobody's older records come behind their newer ones.
//   - The decision names the processes it holds for (with). One that has written
//     on the old cluster and is none of them, because it was frozen or cut off,
//     goes on where it was: the link copies what it writes, in its order. The next
//     switch takes it along. So a dead producer need not be waited for.
//   - A producer says that it is there before it writes, and looks for orders
//     after that; the agent orders the hold before it looks who is there. So
//     nobody begins unseen.
//   - An epoch under which a producer has gone on by itself is obeyed no more.
package handover
