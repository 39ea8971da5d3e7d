// Package house tests the house as a whole: agent, NATS, shards, instances of
// services and the command line, together, on in-process Kafkas or on the real
// ones that the environment names. It has no code of its own.
//
// # Rules
//
//   - Runs are started as an operator starts them, by the command line, and
//     judged by what it prints and by its exit code.
//   - Each story ends with the group's own account: where its handlers get
//     records from, and that none was lost or handled twice.
//   - What is to be killed the hard way is a process: this test's own program,
//     started again in another role.
package house
