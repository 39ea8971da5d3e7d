// Package fleet acts on the running instances of groups from the agent's side:
// it moves a group to another cluster, sets what operators ask for and waits
// until everyone has it, and shows how groups stand.
//
// # Nouns
//
//   - switch: one run of [switchover.Driver]: fleet is its eyes and hands.
//   - copies: what the rest of the program knows of links, behind an interface.
//   - receipt: who has acknowledged a setting.
//
// # Rules
//
//   - What is asked for is written to the audit trail before it is done.
//   - Everyone who should answer is everyone with a lease and everyone whom
//     Kafka reports as a member; never "whoever answered in time".
//   - Nothing here decides where a group lives. Kafka does, and fleet says so.
package fleet
