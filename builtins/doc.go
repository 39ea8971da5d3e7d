// Package builtins is what migration scripts can say: one registry entry per
// file, in terms of the small interfaces of ports.go.
//
// # Nouns
//
//   - entry: a scripting.Builtin, the only source for unpacking, documentation,
//     plan, journal and undo of one word.
//   - port: an interface to the world. The agent implements the ports over
//     control and replication; tests implement them in memory.
//
// # Rules
//
//   - An entry unpacks, calls one port, and converts. It holds no state.
//   - Every effect can be planned, reconciled after a crash and undone.
//   - A check has three answers; only a proven yes passes.
package builtins
