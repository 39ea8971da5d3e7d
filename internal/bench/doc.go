// Package bench compares starferry with MirrorMaker 2: the same brokers, the
// same topic, the same run, each copier a process of its own.
//
// # Rules
//
//   - A copier is warmed up on another topic first, and measured from the first
//     record seen on the target to the last.
//   - Records are counted by the target's end offsets, processor time by the
//     kernel's account of the copier's process alone.
//   - Each figure is also printed as one line `figure NAME VALUE UNIT`, for
//     machines.
package bench
