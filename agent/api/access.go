package api

import "github.com/starferry/starferry/internal/jet"

// AgentAccess is what an agent needs at NATS to serve the command line.
func AgentAccess() jet.Access {
	a := jet.Access{
		Publish:   []string{SubjectOwner("") + "*", SubjectEvents("") + "*"},
		Subscribe: []string{SubjectOwner("") + "*"}, Responses: true,
	}
	for _, s := range subjects() {
		a.Subscribe = append(a.Subscribe, s, s+".*")
	}
	return a
}

// OperatorAccess is what an operator needs at NATS to ask agents. One with a
// name may ask under that name alone: by that agents know who it is.
func OperatorAccess(name string) jet.Access {
	a := jet.Access{Publish: []string{SubjectOwner("") + "*"}, Subscribe: []string{SubjectEvents("") + "*"}}
	for _, s := range subjects() {
		a.Publish = append(a.Publish, SubjectAs(s, name))
	}
	return a
}
