package agent

import (
	"github.com/starferry/starferry/agent/api"
	"github.com/starferry/starferry/agent/journal"
	"github.com/starferry/starferry/control/desired"
	"github.com/starferry/starferry/internal/jet"
	"github.com/starferry/starferry/replication"
)

// Permissions are what an agent needs at NATS, beside its own inbox.
func Permissions() jet.Access {
	locks := jet.Access{Publish: []string{"$KV." + locksBucket + ".>"}}.And(jet.Makes(jet.Bucket(locksBucket)))
	return locks.And(journal.Access(), api.AgentAccess(), desired.AgentAccess(), replication.ClientAccess())
}

// OperatorPermissions are what the command line needs at NATS, beside its own
// inbox; see [api.OperatorAccess].
func OperatorPermissions(name string) jet.Access {
	return api.OperatorAccess(name).And(desired.OperatorAccess(), replication.ViewAccess())
}
