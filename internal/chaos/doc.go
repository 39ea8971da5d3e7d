// Package chaos kills processes while a consumer group moves between two
// clusters and back, and lets [checker] read what is left.
//
// # Nouns
//
//   - world: two clusters, NATS, an agent, two shards and the processes of a
//     service, each a process of its own, and a load that never ends.
//   - trial: one switch, there or back, and one fault in the middle of it.
//   - fault: kill −9 of one process at a phase of the switch or after a random
//     time; the process comes back after a while, except where agent and NATS
//     are gone for good.
//   - void: a trial that proves nothing, because the fault came too late or
//     too few records passed meanwhile. It is counted as such and repeated.
//
// # Rules
//
//   - The checker uses a Kafka client that is none of the product's.
//   - After each trial the whole history is checked, not that trial alone.
//   - The harness ends what it has started, by process id.
package chaos
