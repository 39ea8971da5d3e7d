// Package producer is the library that services embed to write topics wherever
// these live. Its topics can be moved between clusters while it writes.
//
// # Nouns
//
//   - producer: one process of a service. It writes the topics it was opened for.
//   - line: one topic of it. It has a home, the cluster it writes to.
//   - lane: one partition of a line: a queue of parcels of which one at most is
//     under way, so that its order is the order of Send.
//   - parcel: records that travel as one record batch.
//   - side: a line's way to one cluster: leaders, connections, a producer id.
//   - hold: from the order to hold until the line goes on, nothing new is sent.
//     What was sent is waited for; what was not waits in the buffer, and with the
//     buffer full Send waits: back-pressure.
//   - doubt: a parcel that was sent and not answered may have been written. It is
//     sent again, to the same cluster, until that is known.
//
// # Rules
//
//   - Every batch bears a producer id and a sequence (KIP-98), so that what is
//     sent again is written once. acks is all.
//   - A sequence is used up only by what was written: a batch that was refused
//     leaves no gap.
//   - A parcel in doubt never goes to another cluster. If it cannot be known any
//     more whether it was written, its records end with ErrInDoubt; their caller
//     decides.
//   - Where a line writes is decided by handover.Follower, one event at a time;
//     this package carries it out.
//   - The loss of NATS stops nothing: a line stays where it is.
//   - It pulls in no server: neither that of NATS nor a store nor a test broker.
package producer
