package world

import (
	"errors"
	"fmt"

	"github.com/starferry/starferry/builtins"
	"github.com/starferry/starferry/control/fleet"
	"github.com/starferry/starferry/control/switchover"
	"github.com/starferry/starferry/scripting"
)

// watching hands the progress of a switch to whoever asked for it.
func watching(r builtins.SwitchRequest) func(fleet.Progress) {
	if r.Progress == nil {
		return nil
	}
	return func(p fleet.Progress) {
		out := builtins.SwitchProgress{Group: r.Group, Phase: p.Phase, Waits: p.Waits, More: p.More, PhaseMS: p.At - p.Since, ElapsedMS: p.At - p.Began}
		for _, w := range p.Rows {
			out.Rows = append(out.Rows, builtins.SwitchWait{Instance: w.Instance, Member: w.Member, Partition: w.Partition, Cluster: w.Cluster,
				What: w.What, WaitedMS: max(0, p.At-w.Since)})
		}
		r.Progress(out)
	}
}

// refused makes a table of a switch that was not made; other errors stay.
func refused(err error) error {
	var f switchover.Failure
	if !errors.As(err, &f) {
		return err
	}
	r := &scripting.RefusedError{Op: fmt.Sprintf("switch %s: %s", f.Group, f.Phase), Expected: f.Expected, Stands: f.Stands, Do: f.Do, Err: err}
	for _, row := range f.Rows {
		r.Rows = append(r.Rows, scripting.Row(row))
	}
	if len(f.Rows) == 0 {
		for _, found := range f.Found {
			r.Rows = append(r.Rows, scripting.Row{What: found})
		}
	}
	return r
}
