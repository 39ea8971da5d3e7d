// Package control holds the words that the agent and the instances of a
// service exchange: the placement of a group, its settings, the lease of an
// instance and the metadata of a commit. It does no I/O; [control/desired]
// stores these values in NATS, [control/switchover] decides with them,
// [control/fleet] drives groups from the agent's side, and
// [control/consumer] is the library that services embed.
//
// # Rules
//
//   - NATS gives speed and visibility; Kafka decides. Where a group lives is
//     arbitrated by commits fenced by generation, so everything here can be
//     lost and re-derived.
//   - A placement is changed only by compare-and-set. An instance never acts on
//     a placement older than the newest it has seen.
//   - Epochs only grow. A new epoch is larger than any seen in KV, in commits
//     or in leases.
package control

// ProtocolVersion is the version of the protocol between agent and instances.
// An agent drives only what every member understands.
const ProtocolVersion = 1
