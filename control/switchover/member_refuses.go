package switchover

import (
	"fmt"

	"github.com/starferry/starferry/control"
)

// Refuses says why a placement would not be taken in; empty: it would, or says
// nothing new. It is for logs: who gives old orders ought to be looked for.
func (m *Member) Refuses(p control.Placement) string {
	switch {
	case p.Group != m.cfg.Group:
		return fmt.Sprintf("it is for group %s", p.Group)
	case p.Epoch < m.placement.Epoch:
		return fmt.Sprintf("its epoch %d is older than %d, which was seen", p.Epoch, m.placement.Epoch)
	}
	return ""
}
