// Package checker reads what a chaos trial left behind and says what was lost,
// doubled, out of order or copied wrong. It is pure: logs in, verdict out.
//
// # Nouns
//
//   - record: one produced record, known by a number that is its whole value.
//   - handling: one line of a service's log: it has handled a record.
//   - boot: one life of one process of a service; a restarted one is another.
//   - strike: a boot that was killed, frozen or cut off from a cluster, with what
//     its group had committed then.
//   - stay: what one boot handled of one partition, in the order of its log.
//
// # Rules
//
//   - A record whose produce was acknowledged must be handled. One whose
//     acknowledgement never came may be.
//   - A record is handled twice only if the first boot was struck before the
//     second handled it, and had not committed it: it lies in [committed, handed
//     out) of the struck boot. Such a repeat is counted as explained, and
//     survivors must have reported it.
//   - A group changes cluster once a switch: two clusters are never active at a
//     time.
//   - What was redistributed is judged by what the group had committed of its
//     overflow: its own offset is past it as soon as it is moved.
//   - Where producers move, the order that counts is that of each key: a key is
//     one boot's of one producer.
//   - In one stay, and over all first handlings of one partition, records come
//     in the order the source cluster has them.
//   - The target's log holds the source's records once each, in order and byte
//     for byte.
package checker
