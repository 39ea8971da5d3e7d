package acl

import "strings"

// Resource is a kind of thing that ACLs are about, as kafka-acls.sh calls it.
type Resource string

// The resources.
const (
	Topic   Resource = "topic"
	Group   Resource = "group"
	Cluster Resource = "cluster"
	TxID    Resource = "transactional-id"
)

// ClusterName is what Kafka calls the one resource of the kind Cluster.
const ClusterName = "kafka-cluster"

// Operation is what may be done to a resource, as kafka-acls.sh calls it.
type Operation string

// The operations that starferry needs somewhere.
const (
	Read            Operation = "Read"
	Write           Operation = "Write"
	Create          Operation = "Create"
	Delete          Operation = "Delete"
	Alter           Operation = "Alter"
	Describe        Operation = "Describe"
	DescribeConfigs Operation = "DescribeConfigs"
	IdempotentWrite Operation = "IdempotentWrite"
)

// Code is the operation's number in Kafka's protocol, 0 if it has none.
func (o Operation) Code() int8 {
	switch o {
	case Read:
		return 3
	case Write:
		return 4
	case Create:
		return 5
	case Delete:
		return 6
	case Alter:
		return 7
	case Describe:
		return 8
	case DescribeConfigs:
		return 10
	case IdempotentWrite:
		return 12
	}
	return 0
}

// Implies reports whether who may do o may do p as well.
func (o Operation) Implies(p Operation) bool {
	return o == p || p == Describe && (o == Read || o == Write || o == Delete || o == Alter)
}

// Right is an operation on a kind of resource.
type Right struct {
	Resource  Resource
	Operation Operation
}

// Needed is what a request, by its name in Kafka's protocol, may be refused for
// the lack of. Requests that need nothing, and unknown ones, have none.
func Needed(request string) []Right {
	switch request {
	case "Produce":
		return []Right{{Topic, Write}, {TxID, Write}, {Cluster, IdempotentWrite}}
	case "Fetch", "DescribeProducers":
		return []Right{{Topic, Read}}
	case "Metadata", "ListOffsets", "OffsetForLeaderEpoch":
		return []Right{{Topic, Describe}}
	case "OffsetCommit":
		return []Right{{Group, Read}, {Topic, Read}}
	case "OffsetFetch", "ConsumerGroupDescribe":
		return []Right{{Group, Describe}, {Topic, Describe}}
	case "FindCoordinator":
		return []Right{{Group, Describe}, {TxID, Describe}}
	case "JoinGroup", "SyncGroup", "Heartbeat", "LeaveGroup":
		return []Right{{Group, Read}}
	case "DescribeGroups", "ListGroups":
		return []Right{{Group, Describe}}
	case "CreateTopics":
		return []Right{{Topic, Create}, {Cluster, Create}}
	case "DeleteTopics":
		return []Right{{Topic, Delete}}
	case "CreatePartitions":
		return []Right{{Topic, Alter}}
	case "DescribeConfigs":
		return []Right{{Topic, DescribeConfigs}, {Cluster, DescribeConfigs}}
	case "InitProducerID":
		return []Right{{TxID, Write}, {Cluster, IdempotentWrite}}
	case "AddPartitionsToTxn":
		return []Right{{TxID, Write}, {Topic, Write}}
	case "AddOffsetsToTxn":
		return []Right{{TxID, Write}, {Group, Read}}
	case "EndTxn":
		return []Right{{TxID, Write}}
	case "TxnOffsetCommit":
		return []Right{{TxID, Write}, {Group, Read}, {Topic, Read}}
	case "ListTransactions":
		return []Right{{TxID, Describe}}
	}
	return nil
}

// NeededOn is the operation that a request needs on a kind of resource, "" if
// it needs none.
func NeededOn(request string, r Resource) Operation {
	for _, n := range Needed(request) {
		if n.Resource == r {
			return n.Operation
		}
	}
	return ""
}

// free are requests that need nothing.
func free(request string) bool {
	return strings.HasPrefix(request, "SASL") || request == "ApiVersions"
}
