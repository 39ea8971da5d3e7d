package builtins

import (
	"fmt"
	"slices"
	"time"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/scripting"
)

// ExternalSwitch is asked for with mode="external": the group's clients know
// nothing of starferry, so people or other tools stop and start them.
type ExternalSwitch struct {
	// OnRanges is "refuse" or "repeat": what becomes of handled ranges that the
	// clients cannot honour.
	OnRanges string `json:"on_ranges"`
	// OnMissing is "refuse", "earliest" or "latest": where a partition without a
	// commit begins that has records.
	OnMissing string `json:"on_missing"`
	Stop      string `json:"stop,omitempty"`  // what people are told to do first
	Start     string `json:"start,omitempty"` // what they are told at the end
	// Started is how long to wait for members on the target; 0: not at all.
	Started time.Duration `json:"started,omitempty"`
}

// The modes of switch_consumer.
const (
	modeLibrary  = "library"
	modeExternal = "external"
)

// externalParams are those that switch_consumer has for groups without the
// library, and for the fence.
func externalParams(t typeSet) []scripting.Param {
	return []scripting.Param{
		{Name: "mode", Type: t.text, Default: modeLibrary, Doc: `"library": its instances follow while they run; "external": its clients know nothing of starferry and are stopped and started by others`},
		{Name: "fence", Type: t.yes, Doc: "keep everybody out of the group on the old cluster when nobody stands by there any more; always so with external"},
		{Name: "on_ranges", Type: t.text, Default: "refuse", Doc: `external: "refuse" a place that such clients cannot stand at, or "repeat" what was handled beyond it`},
		{Name: "on_missing", Type: t.text, Default: "refuse", Doc: `external: "refuse" partitions without a commit that have records, or begin them at "earliest" or "latest"`},
		{Name: "stop", Type: t.text, Doc: "external: what people are told until the group is empty, such as the command that stops it"},
		{Name: "start", Type: t.text, Doc: "external: what they are told when it may start on the target"},
		{Name: "started", Type: t.duration, Doc: "external: how long to wait for members on the target after that; absent: not at all"},
	}
}

// external reads the arguments of mode="external"; nil for a group with the
// library.
func (s switchConsumer) external(c scripting.Call) (*ExternalSwitch, error) {
	mode := c.Args.Text("mode")
	for name, choices := range map[string][]string{"mode": {modeLibrary, modeExternal}, "on_ranges": {"refuse", "repeat"}, "on_missing": {"refuse", "earliest", "latest"}} {
		if v := c.Args.Text(name); v != "" && !slices.Contains(choices, v) {
			return nil, fmt.Errorf("switch_consumer: %s = %q is no choice; say one of %q", name, v, choices)
		}
	}
	if mode != modeExternal {
		for _, name := range []string{"stop", "start", "started"} {
			if c.Args.Has(name) {
				return nil, fmt.Errorf(`switch_consumer: %s is for groups without the library; say mode = "external" too, or leave it out`, name)
			}
		}
		return nil, nil
	}
	if c.Args.Has("fence") && !c.Args.Bool("fence") {
		return nil, fmt.Errorf(`switch_consumer: a group of mode = "external" is always fenced on the old cluster, since its clients cannot know that it has moved; leave fence out, and lift it later with lift_fence`)
	}
	return &ExternalSwitch{OnRanges: c.Args.Text("on_ranges"), OnMissing: c.Args.Text("on_missing"),
		Stop: c.Args.Text("stop"), Start: c.Args.Text("start"), Started: c.Args.Duration("started")}, nil
}

// kept are the arguments that the way back has too.
func kept(c scripting.Call) scripting.Args {
	args := scripting.Args{}
	for _, name := range []string{"mode", "on_ranges", "on_missing", "fence"} {
		if c.Args.Has(name) {
			args[name] = c.Args[name]
		}
	}
	return args
}

// externalText is what a plan says of a move with mode="external".
func externalText(g starferry.Group, source, target starferry.ClusterName, link string, x *ExternalSwitch) string {
	stop := x.Stop
	if stop == "" {
		stop = fmt.Sprintf("people stop it on %s", source)
	}
	return fmt.Sprintf("wait until group %s is empty (%s), hold it there, move its place to %s over link %s; then it may start there", g, stop, target, link)
}
