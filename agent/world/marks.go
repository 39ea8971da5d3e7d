package world

import (
	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// handledOf reads the handled ranges of a commit; foreign metadata has none.
func handledOf(metadata string) []starferry.Range {
	m, err := control.ParseMark(metadata)
	if err != nil {
		return nil
	}
	return m.Handled
}
