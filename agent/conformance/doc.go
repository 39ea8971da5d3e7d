// Package conformance tries whether a client keeps the protocol of
// docs/protocol.md, in whatever language it is written.
//
// # Nouns
//
//   - client: the program that is tried. Each process of it is an instance.
//   - ground: two clusters and NATS, started here or given.
//   - stand: what one scenario has for itself: a group, a topic, instances, an
//     agent, and a copy whose offsets differ from the source's.
//   - line: what an instance writes for each record it has handled.
//   - scenario: one story with what was expected. What differs is an [Unmet] and
//     names the section of the page that says so.
//
// # Rules
//
//   - A scenario stands by itself: several are played at the same time.
//   - What is expected is waited for, and only what must never be is looked for
//     during a stretch of time.
//   - Every message an instance publishes is held against its schema and its key.
package conformance
