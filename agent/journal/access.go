package journal

import "github.com/starferry/starferry/internal/jet"

// Access is what an agent needs at NATS to keep journals.
func Access() jet.Access {
	return jet.Access{Publish: []string{subjectPrefix + "*"}}.And(jet.Makes(StreamName))
}
