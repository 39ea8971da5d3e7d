// Package kafkatest gives tests what they run against: pairs of Kafka clusters,
// topics, groups, records and a NATS server.
//
// # Nouns
//
//   - pair: a source cluster named "old" and a target cluster named "new".
//   - fake: an in-process Kafka (kfake), the default: fast, and needs only Go.
//   - real broker: Apache Kafka in KRaft mode from Maven's jars, one process.
//
// # Which pair
//
//   - STARFERRY_SOURCE and STARFERRY_TARGET name clusters that run already, as
//     comma-separated addresses.
//   - STARFERRY_KAFKA=4.3.1, or 3.9.2,4.3.1 for source and target, starts real
//     brokers; their jars come from [Fetch], in .kafka at the module's root.
//   - otherwise fakes.
//
// # Rules
//
//   - What is asked for and cannot be had fails the test; nothing is skipped.
//   - A package whose tests ask for pairs has a TestMain that calls [Main], so
//     that its tests share their real brokers; without it each test starts its
//     own.
//   - Everything ends with the test: topics, processes, files, goroutines.
package kafkatest
