// Package consumer is the library that services embed to read a group's topics
// wherever the group lives. It can be moved between clusters while it runs,
// throttled, and told to pass over records.
//
// # Nouns
//
//   - consumer: one instance of a group, one process of a service.
//   - membership: its place in the group on one cluster. It has one on the home
//     and, around a switch, one standby that hands out nothing: it
//     fetches ahead when the places are known at which the group would go on.
//   - session: the stretch in which it hands out records of one cluster in one
//     generation.
//   - low-water mark: the offset below which every record of a partition is
//     handled or passed over. It is what is committed; ranges handled ahead of it
//     travel in the commit's metadata.
//   - overflow: a topic of the group's own, through which the backlog of a hot
//     partition is spread over all instances. The partition's owner moves it there,
//     each chunk in one transaction with the group's offset.
//   - failure policy: what becomes of a record whose handler keeps failing. It is
//     handed out again for ever, or goes through retry topics to a dead-letter
//     topic. It is never dropped.
//
// # Rules
//
//   - What the instance does is decided by switchover.Member, one event at a
//     time; this package carries it out. See there for the rules of a switch.
//   - Records of a partition are handled one after the other, in order. No
//     record is handed out after a drain began, nor unless the membership is
//     known to be good: after a gap in the clock (a stopped process, a suspended
//     machine) the coordinator is asked first. A freeze after that check can
//     still let one record through.
//   - After a kill, what may be handed out again is [committed, handed out), no
//     more. Survivors report that range in their leases.
//   - Only committed transactions are seen.
//   - The loss of NATS stops nothing: the instance keeps what it knows.
//   - It pulls in no server: neither that of NATS nor a store nor a test broker.
package consumer
