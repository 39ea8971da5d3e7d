// Package sidecar is a member of a consumer group for a service in any language:
// it hands records over in HTTP requests, and reads in the answers what became
// of them. What the consumer library can do, such a service can do too: it is
// moved between clusters while it runs, throttled, and passes over records.
//
// # Nouns
//
//   - service: the program beside the sidecar that handles records. It answers
//     POST at one address.
//   - delivery: one request with records, and its answer.
//   - outcome: what the answer says of a record: handled, retry, dead_letter.
//   - refusal: an answer that says that the records are wrong, and trying again
//     is of no use: most of 4xx. One that says it of several records is asked
//     again of each alone.
//
// # Rules
//
//   - A record is handled when an answer of 2xx has come, and says nothing else
//     of it. An answer that is not understood, or none, handles nothing.
//   - By partition: a delivery holds records of one partition, in order, and the
//     partition's next follows its answer. By key: it holds records of many keys
//     and partitions, at most one of each key.
//   - A service that is away or busy costs no record an attempt.
//   - It speaks to this machine alone, unless told otherwise: nobody is asked who
//     he is.
package sidecar
