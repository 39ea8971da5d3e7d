package acl

// Part is a part of starferry that speaks to Kafka.
type Part string

// The parts.
const (
	Agent    Part = "agent"
	Shard    Part = "shard"
	Consumer Part = "consumer" // services with the consumer library
	Producer Part = "producer" // services with the producer library
)

// Parts lists the parts in the order in which they are told of.
func Parts() []Part { return []Part{Agent, Shard, Consumer, Producer} }

// Side says on which clusters an entry is needed.
type Side string

// The sides. With links in both directions every cluster is both.
const (
	Every  Side = ""       // on every cluster
	Source Side = "source" // where links read
	Target Side = "target" // where links write
)

// Entry is one right of a part.
type Entry struct {
	Part Part
	On   Side
	// For is what it is needed for; who does without that can do without the
	// entry.
	For string
	Right
	// Name is of the resource, with placeholders: {topic} and {group} those at
	// work, {link} a link, {retry} and {dead} the topics of a group's failure
	// policy. Prefixed: every name that begins so.
	Name     string
	Prefixed bool
	Requests []string // by their names in Kafka's protocol
	Why      string
}

// Book and State are topics of starferry's own.
const (
	Book  = "starferry.producers"
	State = "starferry.state"
)

// List is the whole list.
func List() []Entry {
	var all []Entry
	all = append(all, agentEntries()...)
	all = append(all, agentHand()...)
	all = append(all, shardEntries()...)
	all = append(all, consumerEntries()...)
	return append(all, producerEntries()...)
}

func agentEntries() []Entry {
	return []Entry{
		{Agent, Every, "everything", Right{Group, Describe}, "{group}", false, []string{"FindCoordinator", "DescribeGroups", "ConsumerGroupDescribe", "OffsetFetch", "ListGroups"},
			"sees members and commits: what Kafka says of a group decides, nothing else"},
		{Agent, Every, "everything", Right{Topic, Describe}, "{topic}", false, []string{"Metadata", "ListOffsets", "OffsetFetch", "ConsumerGroupDescribe"},
			"sees partitions and their ends; a commit for a topic it may not see would be left out of the answer without a word"},
		{Agent, Every, "links", Right{Topic, DescribeConfigs}, "{topic}", false, []string{"DescribeConfigs"},
			"gives the copies the settings of their source, and compares them; redistribute takes the size limit of records over"},
		{Agent, Every, "groups without the library, fences, evicting", Right{Group, Read}, "{group}", false, []string{"JoinGroup", "SyncGroup", "Heartbeat", "LeaveGroup", "OffsetCommit"},
			"is a member of the emptied group and commits its marks and seeds; removes frozen members"},
		{Agent, Every, "groups without the library, peek, skip, producers", Right{Topic, Read}, "{topic}", false, []string{"OffsetCommit", "Fetch", "DescribeProducers"},
			"a commit needs it for each of its topics; shows records and who writes them"},
		{Agent, Every, "producers", Right{Topic, Create}, Book, false, []string{"CreateTopics"},
			"makes the book in which Kafka keeps where topics are written"},
		{Agent, Every, "producers", Right{Topic, Read}, Book, false, []string{"Metadata", "ListOffsets", "Fetch"},
			"reads where topics are written"},
		{Agent, Every, "producers", Right{Topic, Write}, Book, false, []string{"AddPartitionsToTxn", "Produce"},
			"writes the decision"},
		{Agent, Every, "producers", Right{TxID, Write}, Book + ".{topic}", false, []string{"FindCoordinator", "InitProducerID", "AddPartitionsToTxn", "Produce", "EndTxn"},
			"the right to decide about a topic is its transactional id"},
		{Agent, Every, "producers", Right{TxID, Describe}, "*", false, []string{"ListTransactions"},
			"gives names to writers of a topic that are transactional; they are told by number without it"},
	}
}

func agentHand() []Entry {
	return []Entry{
		{Agent, Every, "skip", Right{Topic, Create}, "{dead}", false, []string{"CreateTopics"},
			"makes the topic for copies of what is skipped, and again on the cluster that a switch leads to; not needed where it has been made"},
		{Agent, Every, "skip", Right{Topic, Describe}, "{dead}", false, []string{"Metadata"},
			"looks whether that topic is there"},
		{Agent, Every, "replay", Right{Topic, Read}, "{dead}", false, []string{"ListOffsets", "Fetch"},
			"reads what was kept"},
		{Agent, Every, "replay", Right{Topic, Write}, "{retry}", false, []string{"Metadata", "Produce"},
			"puts records back; with --to TOPIC it is that topic instead"},
		{Agent, Every, "redistribute", Right{Topic, Create}, "{group}.overflow-", true, []string{"CreateTopics"},
			"makes a topic for the backlog"},
		{Agent, Every, "redistribute", Right{Topic, Delete}, "{group}.overflow-", true, []string{"Metadata", "ListOffsets", "OffsetFetch", "DeleteTopics"},
			"sees how much of it is left, and deletes it when all is handled"},
		{Agent, Every, "redistribute", Right{Topic, Read}, "{group}.overflow-", true, []string{"ListOffsets", "Fetch"},
			"finds out of which partition it is, if NATS has lost what it knew of it"},
		{Agent, Target, "links", Right{Topic, Create}, "{topic}", false, []string{"CreateTopics"},
			"makes the topics of the copies; not needed where they have been made"},
	}
}

func shardEntries() []Entry {
	return []Entry{
		{Shard, Source, "links", Right{Topic, Read}, "{topic}", false, []string{"Metadata", "ListOffsets", "OffsetForLeaderEpoch", "Fetch"},
			"reads what is to be copied, and again to verify"},
		{Shard, Source, "links", Right{Topic, Read}, State, false, []string{"Metadata", "ListOffsets", "Fetch"},
			"tells copies by another link from records of the cluster's own: without it they could travel for ever"},
		{Shard, Source, "links by pattern", Right{Topic, DescribeConfigs}, "{topic}", false, []string{"DescribeConfigs"},
			"gives copies of topics found later the settings of their source"},
		{Shard, Target, "links", Right{Topic, Write}, "{topic}", false, []string{"AddPartitionsToTxn", "Produce"},
			"writes the copies, and shuts out whoever wrote them before"},
		{Shard, Target, "links", Right{Topic, Read}, "{topic}", false, []string{"Metadata", "ListOffsets", "OffsetForLeaderEpoch", "Fetch"},
			"reads back what stands on the target before it goes on, and to verify"},
		{Shard, Target, "links", Right{Topic, DescribeConfigs}, "{topic}", false, []string{"DescribeConfigs"},
			"keeps to the size of batches that the topic takes"},
		{Shard, Target, "links of topics that grow", Right{Topic, Alter}, "{topic}", false, []string{"CreatePartitions"},
			"gives the copy the partitions that its source was given"},
		{Shard, Target, "links by pattern", Right{Topic, Create}, "{topic}", false, []string{"CreateTopics"},
			"makes the copies of topics found later"},
		{Shard, Target, "links", Right{TxID, Write}, "starferry.{link}.", true, []string{"FindCoordinator", "InitProducerID", "AddPartitionsToTxn", "EndTxn"},
			"one owner at a time for each share of a link"},
		{Shard, Target, "links", Right{Topic, Create}, State, false, []string{"CreateTopics"},
			"makes the topic that says which copies are whose"},
		{Shard, Target, "links", Right{Topic, Read}, State, false, []string{"Metadata", "ListOffsets", "Fetch"},
			"finds out what others wrote"},
		{Shard, Target, "links", Right{Topic, Write}, State, false, []string{"Produce"},
			"says what it is about to write"},
		{Shard, Target, "links", Right{Cluster, DescribeConfigs}, ClusterName, false, []string{"DescribeConfigs"},
			"reads how long brokers remember silent producers; without it Kafka's defaults are taken, which is wrong where they are shorter"},
	}
}

func consumerEntries() []Entry {
	return []Entry{
		{Consumer, Every, "everything", Right{Group, Read}, "{group}", false,
			[]string{"FindCoordinator", "JoinGroup", "SyncGroup", "Heartbeat", "LeaveGroup", "OffsetFetch", "OffsetCommit", "DescribeGroups"},
			"is a member, on the cluster the group lives on and on the one it moves to"},
		{Consumer, Every, "everything", Right{Topic, Read}, "{topic}", false, []string{"Metadata", "ListOffsets", "Fetch", "OffsetFetch", "OffsetCommit"},
			"reads and commits"},
		{Consumer, Every, "retry topics", Right{Topic, Read}, "{retry}", false, []string{"Metadata", "ListOffsets", "Fetch", "OffsetFetch", "OffsetCommit"},
			"reads what it has put there"},
		{Consumer, Every, "retry topics", Right{Topic, Write}, "{retry}", false, []string{"Produce"},
			"puts aside what fails"},
		{Consumer, Every, "dead letters, skip", Right{Topic, Write}, "{dead}", false, []string{"Metadata", "Produce"},
			"puts aside what fails to the end, and copies of what is skipped"},
		{Consumer, Every, "redistribute", Right{Topic, Read}, "{group}.overflow-", true, []string{"Metadata", "ListOffsets", "Fetch", "OffsetFetch", "OffsetCommit"},
			"reads its share of the backlog"},
		{Consumer, Every, "redistribute", Right{Topic, Write}, "{group}.overflow-", true, []string{"AddPartitionsToTxn", "Produce"},
			"moves the backlog of a partition that it owns"},
		{Consumer, Every, "redistribute", Right{TxID, Write}, "starferry-overflow-{group}-", true,
			[]string{"FindCoordinator", "InitProducerID", "AddPartitionsToTxn", "AddOffsetsToTxn", "TxnOffsetCommit", "Produce", "EndTxn"},
			"records and the group's place move in one transaction"},
	}
}

func producerEntries() []Entry {
	return []Entry{
		{Producer, Every, "everything", Right{Topic, Write}, "{topic}", false, []string{"Metadata", "Produce"},
			"writes; from Kafka 2.8 on that is enough for a producer id"},
		{Producer, Every, "brokers before Kafka 2.8", Right{Cluster, IdempotentWrite}, ClusterName, false, []string{"InitProducerID"},
			"gets a producer id"},
		{Producer, Every, "everything", Right{Topic, Read}, Book, false, []string{"Metadata", "ListOffsets", "Fetch"},
			"reads where the topic is written"},
		{Producer, Every, "everything", Right{TxID, Write}, Book + ".{topic}", false, []string{"FindCoordinator", "InitProducerID"},
			"ends a hold by itself when agent and NATS are gone: makes the open switch impossible, then reads"},
	}
}
