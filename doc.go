// Package starferry holds the vocabulary that every room of the house shares:
// clusters, groups, topics, partitions, offsets, cuts and epochs. It does no
// I/O and imports nothing outside the standard library.
//
// # Nouns
//
//   - cluster: a named Kafka cluster from the configuration.
//   - group: a Kafka consumer group; the unit that is switched.
//   - instance: one process of a service that runs the consumer library.
//   - link: a directed copy of some topics, source cluster to target cluster.
//   - lane: one partition of one topic on one link; the unit of ordered copying.
//   - shard: a replicator process with its own store; it owns buckets of lanes.
//   - bucket: a fixed share of a link's lanes; the unit of ownership and fencing.
//   - run: a stretch of the offset map where target − source is constant.
//   - hole: source offsets without a copy, with the reason.
//   - cut: per partition the next offset a group has to read on a cluster, plus
//     ranges beyond it that are already handled.
//   - home: the cluster a group lives on now.
//   - decision: the one commit on the old cluster that moves a group's home.
//   - epoch: a number that grows with every decision about a group; older
//     epochs are refused.
//   - standby: a group membership that holds its partitions and fetches nothing.
package starferry
