package control

import "github.com/starferry/starferry"

// Settings is what operators ask of a running group beside its placement. It
// has a key, and so a revision, of its own. Settings survive restarts and
// rebalances, because every instance reads them before it hands out anything.
type Settings struct {
	Version  int             `json:"v"`
	Group    starferry.Group `json:"group"`
	Throttle *Throttle       `json:"throttle,omitempty"`
	Skips    []Skip          `json:"skips,omitempty"`
	By       string          `json:"by,omitempty"`
	Why      string          `json:"why,omitempty"`
	At       int64           `json:"at"`
}

// Throttle limits a whole group. Each instance takes the share of the rate that
// its owned partitions have of all partitions, so it follows rebalances without
// messages.
type Throttle struct {
	// Rate is in records per second for the whole group; 0 means no limit.
	Rate float64 `json:"rate"`
	// Until ends it, Unix milliseconds; 0 means until changed.
	Until int64 `json:"until,omitempty"`
}

// Skip passes over the records of one partition of one cluster without handing
// them out. A skip is a cluster's own: a switch translates it with the cut.
type Skip struct {
	ID        string                   `json:"id"`
	Cluster   starferry.ClusterName    `json:"cluster"`
	Partition starferry.TopicPartition `json:"partition"`
	Range     starferry.Range          `json:"range"`
	By        string                   `json:"by,omitempty"`
	Why       string                   `json:"why,omitempty"`
	At        int64                    `json:"at"`
}
