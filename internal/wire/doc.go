// Package wire is the thin connection to a Kafka cluster: requests in kmsg's
// types go out over connections of our own, answers come back in order. There
// is no client behind it that batches, retries produce requests, joins groups
// or keeps offsets; the rooms above do that themselves, exactly as they need it.
//
// # Nouns
//
//   - [Cluster]: the way to one cluster: addresses, TLS, SASL, cached leaders
//     and coordinators, and shared connections made on demand.
//   - [Conn]: one connection to one broker. Requests are pipelined, answers
//     arrive in the order of the requests.
//   - version table: which versions of each request this code understands.
//
// # Rules
//
//   - Each request goes out at the newest version that both sides speak. What
//     both sides understand is settled per connection (KIP-35).
//   - An error says whether the request may have been carried out:
//     [ErrNotSent] means certainly not, [ErrNoAnswer] means it is unknown.
//     Requests that change something are repeated by this package only after
//     ErrNotSent or an answer that says it was not carried out.
//   - Error codes of Kafka are kafka.Error values: errors.Is(err,
//     kafka.IllegalGeneration) holds through every wrapping.
//   - Byte fields of an answer alias one frame, read for that answer alone: the
//     receiver owns it, may change it, and keeps it alive by keeping the field.
//   - Every goroutine ends with its connection; [Cluster.Close] closes all of
//     them and waits.
package wire
