// Package offsetmap keeps the exact two-way map of a lane: for each source
// offset where its copy is on the target, and back. A Map is pure; a Lane is a
// Map in a Store, a Badger directory that holds many.
//
// # Nouns
//
//   - run: a stretch of copied records where target − source is constant.
//   - hole: source offsets without a copy, with the reason.
//   - unknown stretch: source offsets of which nothing can be proven.
//   - gap: target offsets between runs, which hold fence markers or records that
//     are not ours. Gaps are implied by the runs around them.
//   - place: a position ("next to read") and the ranges above it that are
//     already handled.
//
// # Rules
//
//   - Source offsets are covered without a break from the start to Next: by a
//     run, a hole or an unknown stretch. Target offsets of runs ascend.
//   - Never a guess. Forward and Back ask about a record: Exact is its place;
//     InHole means that it has no copy, or is no copy, and gives the place of
//     the next copied record; AtEnd that the copy has not come so far, and
//     gives the end of what is copied; BeforeStart that the map begins above,
//     and gives its first record; Unknown gives no offset.
//   - Positions translate exactly wherever they point, also at a marker or into
//     a hole: everything copied below the position is below its translation, and
//     nothing else is. A position at the end of what is copied is Exact too;
//     AtEnd then means that the copy has to pass Behind more offsets first.
//   - The target log is the truth. A store may lose its newest writes, or be
//     deleted; it is then shorter, and the shard reads the target back from
//     Next. A store that is damaged anywhere else is refused: blocks carry
//     checksums that are chained from the lane's first to its last.
package offsetmap
