package replication

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"slices"

	"github.com/starferry/starferry"
)

// The cleaners of two clusters run independently, so a record that the source
// has may be missing on a compacted target, as long as a newer record of its key
// came after it. keyWatch holds the keys whose newest version is missing until
// that has been seen.
type keyWatch struct {
	limit   int
	missing map[keyHash]missingKey
}

// keyHash stands for a key; only missing ones are held.
type keyHash [16]byte

type missingKey struct{ source, target starferry.Offset }

// maxMissingKeys bounds what one proof holds: about 60 MB.
const maxMissingKeys = 1 << 20

var errManyKeys = errors.New("too many keys lack their newest record so far for the memory of a proof; verify a smaller range of source offsets")

func newKeyWatch() *keyWatch {
	return &keyWatch{limit: maxMissingKeys, missing: map[keyHash]missingKey{}}
}

func hashKey(key []byte) (h keyHash) {
	sum := sha256.Sum256(key)
	copy(h[:], sum[:])
	return h
}

// waiting reports whether any key lacks its newest version.
func (k *keyWatch) waiting() bool { return k != nil && len(k.missing) > 0 }

// lacks notes that the newest version of a key so far is missing on the target.
// A tombstone is no loss: cleaners remove it after a while (KIP-534).
func (k *keyWatch) lacks(key, value []byte, source, target starferry.Offset) error {
	h := hashKey(key)
	if value == nil {
		delete(k.missing, h)
		return nil
	}
	if _, known := k.missing[h]; !known && len(k.missing) >= k.limit {
		return errManyKeys
	}
	k.missing[h] = missingKey{source, target}
	return nil
}

// has notes that the newest version of a key so far is there.
func (k *keyWatch) has(key []byte) {
	if k.waiting() {
		delete(k.missing, hashKey(key))
	}
}

// seen notes a record of the target that is nobody's counterpart: a newer one
// of its key explains why an older one is missing.
func (k *keyWatch) seen(key []byte, at starferry.Offset) {
	h := hashKey(key)
	if m, ok := k.missing[h]; ok && m.target < at {
		delete(k.missing, h)
	}
}

// lost takes out what is left, in order.
func (k *keyWatch) lost() []missingKey {
	if k == nil {
		return nil
	}
	var out []missingKey
	for _, m := range k.missing {
		out = append(out, m)
	}
	clear(k.missing)
	slices.SortFunc(out, func(a, b missingKey) int { return cmp.Compare(a.source, b.source) })
	return out
}
