// Package switchover decides the steps of a switch: what an instance of a group
// does ([Member]) and what the agent does ([Driver]). Both are pure state
// machines, without client, clock, goroutine or logger, so that they can be
// searched and replayed; control/consumer and control/fleet are their hands.
//
// # Nouns
//
//   - member: one instance. Events go in, ordered effects come out.
//   - driver: the agent in one switch. News goes in, ordered orders come out.
//   - barrier: what must hold before the next phase. A rebalance begins it
//     again; it does not fail it.
//   - way out: a new generation of the old home, after which all read the same
//     truth.
//
// # Rules
//
//   - Where a group lives is what its commits say: the highest epoch counts, and
//     at equal epochs "moved" beats everything. A placement is a hint to look.
//   - Nobody is ordered to decide before the seed was read back as planned, and
//     nothing is announced that Kafka has not accepted.
//   - "Not moved" proves something only when read after the generation of the
//     order to decide is known to be gone.
//   - Before the decision every failure leads back to the old home; after it,
//     going back is a switch of its own.
package switchover
