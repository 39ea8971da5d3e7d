// Package scripting runs migration scripts written in Starlark. It knows
// nothing of Kafka: what a script can say is in a [Registry] of [Builtin]
// entries, which package builtins fills.
//
// # Nouns
//
//   - program: a loaded script, with its docstring, parameters and phases.
//   - phase: a named step with check, do, verify and undo.
//   - run: one execution of a program, told completely by its journal.
//   - step: one call of a builtin inside a phase; its id is phase/n:builtin.
//   - effect: a call that changes something. Its intent, with the call that
//     undoes it, is journaled before it is carried out, its result after.
//
// # Rules
//
//   - A module's top level only declares. Effects happen in the do and undo
//     functions of phases; check and verify only look.
//   - What the journal has not got did not happen. A phase that is done is
//     never executed again; the open one is replayed call by call.
//   - An intent without a result is settled by looking at the real system.
//   - A journaled observation is not a live fact: check and verify always look
//     again, and after a replay check passes before any new effect.
//   - There is no clock and no randomness but m.now(), m.uuid() and m.random(),
//     which are journaled, and no file, environment or network.
//   - A plan makes real reads and predicts the rest; it writes nothing.
package scripting
