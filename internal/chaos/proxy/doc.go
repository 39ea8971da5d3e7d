// Package proxy stands between a Kafka cluster and its clients and spoils what
// passes through.
//
// # Nouns
//
//   - proxy: the ways to one cluster. Answers that name brokers (metadata,
//     coordinators) are rewritten, so that clients stay behind it; whoever knows
//     a broker's own address goes past it.
//   - weather: what holds for all connections while it lasts: refused, delayed,
//     throttled, frozen.
//   - trick: what is done to single requests or answers: cut in the middle of a
//     frame, swallowed, or answered with an error, before or after the broker
//     has carried the request out.
//
// # Rules
//
//   - A frame is passed on whole or not at all, but for those that a trick cuts.
//   - A connection that is broken is reset, as by a router that has lost it.
package proxy
