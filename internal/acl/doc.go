// Package acl is the list of what each part of starferry has to be allowed on a
// Kafka cluster whose brokers have an authorizer. It is the one place that says
// so: the command line prints it, the documentation is made of it, errors refer
// to it, and a test lets everything run with exactly this and nothing else.
//
// # Nouns
//
//   - [Right]: an operation on a kind of resource, such as Read on a topic.
//   - [Part]: who needs it: agent, shard, consumer, producer. Each may have a
//     principal of its own.
//   - [Entry]: a right of a part, on which clusters, what it is for, and which
//     requests need it.
//   - [Line]: an entry for real names, as kafka-acls.sh takes it.
//
// # Rules
//
//   - Describe stands alone only where no Read, Write, Delete or Alter on the same
//     resource implies it, as Kafka's authorizers do; DescribeConfigs likewise.
//   - What a request needs is Kafka's own table (docs: Security, Authorization
//     and ACLs, Protocols).
package acl
