// Package batch reads, re-labels and rebuilds Kafka record batches (magic 2,
// KIP-98) as bytes. It is pure: it knows no network and no clock.
//
// # Nouns
//
//   - record set: what a fetch response carries for one partition, batches back
//     to back; the last one may be cut off.
//   - dense batch: one that has a record for each of its offsets.
//   - copy: a dense batch made for the target, with the source offsets of its
//     records.
//
// # Rules
//
//   - The checksum travels end to end. Stamp patches it from the header's
//     difference without reading the records, so a bit that flipped anywhere
//     since the source's producer is refused by the target's broker. Whatever is
//     re-encoded is verified first.
//   - Whatever comes from outside may be damaged: the answer is an error that
//     names the field, never a panic, and memory is bounded by an argument.
package batch
