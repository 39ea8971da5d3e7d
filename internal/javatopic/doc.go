// Package javatopic proves a copy with the programs that users have: the Java
// client writes a topic that has everything in it, starferry copies it, the
// Java client reads both sides, and the two readings must be the same.
//
// # Nouns
//
//   - maker: java/Make.java; writes transactions, all compressions, batches of 1
//     to 10,000 records, keys that come again, tombstones, headers.
//   - reader: java/Read.java; what a read-committed consumer sees, and the
//     positions that it would commit.
//
// # Rules
//
//   - It needs real brokers; make test-kafka runs it with 20,000 records, make
//     proof with 1,000,000.
//   - Every source offset is translated and translated back, not a sample.
package javatopic
