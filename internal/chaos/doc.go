// Package chaos lets everything fail while consumer groups move between two
// clusters and back, and lets [checker] read what is left.
//
// # Nouns
//
//   - world: two clusters, NATS, an agent, two shards and the processes of two
//     services, each a process of its own, behind proxies of its own to either
//     cluster and to NATS; and a load that never ends.
//   - crew: a service: one consumer group, its instances and what they handle.
//   - trial: one switch, there or back, of one crew or of both, and one fault in
//     the middle of it.
//   - fault: a deed that strikes at an aim. The deed is undone after a while,
//     except where agent and NATS are gone for good.
//   - aim: the step of the switch at which a fault strikes; or a random time.
//   - strike: what a fault has done to an instance; only that explains repeats.
//   - void: a trial that proves nothing, because the fault came too late or
//     too few records passed meanwhile. It is counted as such and repeated.
//   - act: what an operator does to a group or to its producers in a [Hand]
//     campaign, perhaps beside another act, with a fault in the middle of it.
//   - writer: a process that produces with the library, and notes each record
//     before it is sent and what became of it.
//   - stuck: a group that does not go on, or cannot be switched any more, when
//     all is well again.
//
// # Rules
//
//   - The checker uses a Kafka client that is none of the product's.
//   - After each trial the whole history is checked, not that trial alone.
//   - A trial is over when a switch has succeeded without a fault: the one that
//     was struck, resumed, or another one.
//   - The harness ends what it has started, by process id.
package chaos
