// Package replication copies topics from one cluster to another and knows for
// every source offset where it went.
//
// # Nouns
//
//   - LinkSpec: what is wanted: topics, from one cluster to another.
//   - Table: which shard owns which bucket of a link, and since which epoch.
//   - Shard: a process (or goroutine) that owns buckets and copies their lanes.
//   - bucket: the unit of ownership and fencing; one transactional id, and so
//     one producer id and epoch at a time.
//   - lane: one partition of one topic; copied in order, mapped exactly.
//   - anchor: a record in the state topic that says at which source offset an
//     epoch began to write a lane; what makes a lost map exactly rebuildable.
//   - Client: the agent's side: makes links, asks them, translates cuts.
//
// # Rules
//
//   - A bucket writes only after its owner has fenced the one before it and has
//     read back what that one wrote.
//   - The target log is the truth. The map on disk may lose its tail or be
//     deleted; NATS may be emptied.
//   - What cannot be proven exactly is unknown, never a guess.
//   - A lane that cannot go on says what is wrong and what to do; the others
//     go on.
package replication
