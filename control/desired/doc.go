// Package desired stores in NATS what the agent wants of every group, and what
// every instance says of itself.
//
// # Nouns
//
//   - placement, settings: the desired state of a group, one key each in the
//     bucket starferry_desired, changed only by compare-and-set on the key's
//     revision.
//   - lease: what an instance says of itself, in the bucket starferry_live,
//     which forgets what is not renewed.
//   - audit: who asked for what, when and why, in the stream starferry_audit.
//     An event is acknowledged before it is acted on.
//
// # Rules
//
//   - A watch gives latency, a poll gives truth: a watch may close silently, so
//     every follower reads the whole again every few seconds.
//   - What cannot be read (garbage, a newer protocol) is an error that names the
//     key; it is never guessed at.
//   - Losing NATS changes nothing that runs: a follower keeps what it knows and
//     goes on when the connection is back.
package desired
