// Package bench measures starferry against its bars: beside MirrorMaker 2 on the
// same brokers, the same topics, in the same run, each copier a process of its
// own; and alone where it has no peer.
//
// # Nouns
//
//   - part: one measurement with its method; parts run one after the other and
//     each can run alone.
//   - figure: one number with its unit, and the bar it has to reach if it has one.
//   - pair: two real brokers that all parts share; each part finds them empty.
//   - ferry: starferry as users run it, an agent and shards, for one part.
//
// # Rules
//
//   - A copier is warmed up on another topic first, and measured from the first
//     record seen on the target to the last.
//   - Records are counted by the target's end offsets, processor time by the
//     kernel's account of the copier's process alone.
//   - A part that cannot run fails alone: the others go on, and the end says so.
//     A bar that is missed is told and is no failure.
//   - Each figure is also printed as one line `figure NAME VALUE UNIT`, for
//     machines.
package bench
