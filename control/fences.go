package control

import "github.com/starferry/starferry"

// Fences says on which clusters the agents keep everybody out of a group, since
// it lives elsewhere. It has a key, and so a revision, of its own.
type Fences struct {
	Version int                             `json:"v"`
	Group   starferry.Group                 `json:"group"`
	On      map[starferry.ClusterName]Fence `json:"on,omitempty"`
}

// Fence is one fence that ought to stand.
type Fence struct {
	// Epoch is that of the switch that led the group away.
	Epoch starferry.Epoch `json:"epoch"`
	// From is when it is to be taken, Unix milliseconds: not while members stand
	// by there. Until the group is empty it is tried again and again.
	From int64  `json:"from,omitempty"`
	By   string `json:"by,omitempty"`
	Why  string `json:"why,omitempty"`
	At   int64  `json:"at"` // Unix milliseconds
}
