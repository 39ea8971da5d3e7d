package switchover

import (
	"fmt"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// lookAroundAfter is how long the configured home may take to answer before the
// other clusters are asked as well, in milliseconds.
const lookAroundAfter = 2000

// lookAround asks the other clusters where the group lives while the configured
// home does not answer. A cluster that says "home" of an epoch that was decided
// says all: whoever leaves it writes "moved" there first. Seeds say nothing
// without the cluster they came from.
func (m *Member) lookAround() {
	configured := m.sides[m.cfg.Home]
	if m.home != "" || m.closing || configured == nil || configured.known || configured.readID == 0 || len(m.cfg.Clusters) < 2 {
		return
	}
	if !m.around {
		if m.now-m.began < lookAroundAfter {
			return
		}
		m.around = true
		for _, c := range m.cfg.Clusters {
			if c != m.cfg.Home {
				m.lookAt(c)
			}
		}
	}
	m.refuse(m.unsure())
}

// unsure says what it waits for, and what the other clusters have said.
func (m *Member) unsure() string {
	var said []string
	for _, c := range m.cfg.Clusters {
		if c != m.cfg.Home {
			said = append(said, m.hearsay(c))
		}
	}
	text := fmt.Sprintf("waits to learn where the group lives: %s, its configured home, does not answer, and %s", m.cfg.Home, strings.Join(said, "; "))
	if p := m.placement; p.Epoch > 0 {
		text += fmt.Sprintf(" (by NATS it lives on %s since epoch %d, but only Kafka decides)", p.Active, p.Epoch)
	}
	return text + fmt.Sprintf(": make %s reachable", m.cfg.Home)
}

func (m *Member) hearsay(c starferry.ClusterName) string {
	s := m.sides[c]
	if !s.known {
		return fmt.Sprintf("neither does %s", c)
	}
	switch v := s.found.judge(); {
	case len(s.found) == 0:
		return fmt.Sprintf("%s does not know the group", c)
	case v.state == control.Seeded:
		return fmt.Sprintf("%s was seeded from %s (epoch %d), which alone says whether the group has moved", c, v.cluster, v.epoch)
	default:
		return fmt.Sprintf("%s says nothing that was decided (%s)", c, s.found.describe())
	}
}
