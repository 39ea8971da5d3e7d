// Package crossing copies topics of many kinds from one cluster to another while
// everything around the copy fails, and lets [checker] compare source, target
// and map, record by record.
//
// # Nouns
//
//   - world: two clusters, a [proxy] before each, NATS, an agent and three
//     shards, each a process of its own, and a load of numbered records.
//   - fault: something that goes wrong for a while: see the deck in faults.go.
//   - trial: some seconds of load with faults that overlap; then all is well
//     again, the load pauses, the copy catches up, and the checker looks.
//   - void: a trial with too few faults or records to prove anything.
//   - variant: the program built with some lines changed, by an overlay of the
//     compiler: shorter leases, or a planted bug that the checker has to find.
//     The product's own source knows nothing of it.
//
// # Rules
//
//   - Load and checker speak to the brokers directly, through a Kafka client
//     that is none of the product's.
//   - A lane that has stopped, or does not catch up, is a finding too.
package crossing
