// Package arrows holds no code, only tests: that imports between the rooms of
// this repository point the way ARCHITECTURE.md says, that what services embed
// stays light, that nothing registers itself behind the reader's back, and that
// every guarantee ARCHITECTURE.md gives is quoted by a test.
package arrows
