package switchover

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// Row is one reason of a refusal: a partition, member or instance, what was
// found, why that is in the way, and what to do about it.
type Row struct {
	Subject string `json:"subject"`
	What    string `json:"what"`
	Why     string `json:"why,omitempty"`
	Do      string `json:"do,omitempty"`
}

// String is the row in one clause.
func (r Row) String() string {
	s := strings.TrimSpace(r.Subject + " " + r.What)
	if r.Why != "" {
		s += ": " + r.Why
	}
	return s
}

// compare orders rows by partition, or else by text.
func (r Row) compare(o Row) int {
	a, errA := starferry.ParseTopicPartition(r.Subject)
	b, errB := starferry.ParseTopicPartition(o.Subject)
	if errA == nil && errB == nil {
		return a.Compare(b)
	}
	return cmp.Compare(r.Subject, o.Subject)
}

// refusal makes a Failure of rows, in their order. Do is what to do about all of
// them; empty: the rows say it.
func refusal(expected, do string, rows ...Row) *Failure {
	f := &Failure{Expected: expected, Rows: rows, Do: do}
	seen := map[string]bool{}
	var todo []string
	for _, r := range rows {
		f.Found = append(f.Found, r.String())
		if do == "" && r.Do != "" && !seen[r.Do] {
			seen[r.Do] = true
			todo = append(todo, r.Do)
		}
	}
	f.Do = cmpOr(do, strings.Join(todo, "; "))
	return f
}

// waits are what a barrier says while it still hopes that the reasons go away.
func (f Failure) waits() []Wait {
	var waits []Wait
	for i, found := range f.Found {
		w := Wait{What: found}
		if i < len(f.Rows) {
			if tp, err := starferry.ParseTopicPartition(f.Rows[i].Subject); err == nil {
				w.Partition, w.What = tp, strings.TrimPrefix(found, f.Rows[i].Subject+" ")
			}
		}
		waits = append(waits, w)
	}
	return waits
}

// compare orders waits by partition, then by text.
func (w Wait) compare(o Wait) int {
	return cmp.Or(w.Partition.Compare(o.Partition), cmp.Compare(w.String(), o.String()))
}

// bare refuses partitions that nobody holds on the target though everyone has
// long stood there: the target has no such partition.
func (d *Driver) bare(waits []Wait) bool {
	if len(waits) == 0 {
		d.bareAt = 0
		return false
	}
	if d.bareAt == 0 {
		d.bareAt = d.now
	}
	if d.now-d.bareAt < d.req.Patience {
		return false
	}
	var rows []Row
	for _, w := range waits {
		rows = append(rows, Row{Subject: w.Partition.String(), What: "is held by nobody on " + string(w.Cluster),
			Why: "all instances stand there: the topic has fewer partitions there, or is missing, or may not be read",
			Do:  "see that the topic has as many partitions there, and that the instances may READ it (ACL)"})
	}
	d.fail(*refusal(fmt.Sprintf("every partition to be held by an instance on %s", d.p.Target), "", rows...))
	return true
}

// missing are the rows of a barrier that has been waited for too long.
func (d *Driver) missing() []Row {
	var rows []Row
	for _, w := range d.rows {
		if i := slices.IndexFunc(d.strangers, func(s stranger) bool { return w == s.wait() }); i >= 0 {
			rows = append(rows, d.strangers[i].row())
			continue
		}
		r := Row{Subject: cmpOr(w.Who(), "group"), What: "has " + w.What}
		if w.Who() == "" || !strings.HasPrefix(w.What, "to ") {
			r.What = "waits for " + w.What
		}
		if p := w.Partition; p != (starferry.TopicPartition{}) && w.Who() != p.String() {
			r.What = p.String() + ": " + r.What
		}
		rows = append(rows, r)
	}
	return rows
}

// stranger is a member of the group that has no lease.
type stranger struct {
	on     starferry.ClusterName
	member MemberSeen
}

func (s stranger) compare(o stranger) int {
	return cmp.Or(cmp.Compare(s.member.ID, o.member.ID), cmp.Compare(s.on, o.on))
}

// String names the member as an operator finds it.
func (s stranger) String() string { return fmt.Sprintf("member %s on %s", s.member, s.on) }

func (s stranger) wait() Wait {
	if i := s.member.Instance(); i != "" {
		return Wait{Instance: i, Member: s.String(), Cluster: s.on, What: fmt.Sprintf("to show signs of life, or to leave %s (member %s, host %s)", s.on, s.member.ID, s.member.Host)}
	}
	return Wait{Member: s.String(), Cluster: s.on, What: "to be a live instance, or to leave"}
}

// row says what the member is by all that is known of it.
func (s stranger) row() Row {
	what := fmt.Sprintf("client id %s, host %s, on %s", s.member.Client, s.member.Host, s.on)
	if s.member.Instance() != "" {
		return Row{Subject: s.member.ID, What: what, Why: "an instance of the library without a lease: frozen, or cut off from NATS",
			Do: `wake it, kill it or mend its way to NATS; or switch with on_straggler="evict", which removes it from the group`}
	}
	return Row{Subject: s.member.ID, What: what, Why: "no live instance: it does not use the library, or not with this NATS",
		Do: "deploy the library to that host and give it the address of NATS, or stop it"}
}

// Instance is the instance that this member belongs to, if it uses the library.
func (m MemberSeen) Instance() starferry.InstanceID {
	if !m.Library {
		return ""
	}
	return starferry.InstanceID(m.Client)
}

// protocols names kinds of groups that are not moved so, and what to do instead.
func foreignGroup(c starferry.ClusterName, g GroupSeen) *Failure {
	row := Row{Subject: "group on " + string(c)}
	switch g.ProtocolType {
	case "", "consumer":
		return streams(c, g)
	case "connect":
		row.What, row.Why = "of Kafka Connect workers", "workers share out connectors through it; it has no offsets that could move"
		row.Do = "start the connector on a Connect cluster beside the new Kafka: its source offsets lie in its offset topic, a sink's offsets in the group connect-NAME, which is switched like any other"
	case "share":
		row.What, row.Why = "a share group (KIP-932)", "its records are acknowledged one by one on the broker, so there is no offset that could move"
		row.Do = "let it handle everything on the old cluster with the producers moved first, then start it on the new one"
	default:
		row.What, row.Why = fmt.Sprintf("of protocol type %q", g.ProtocolType), "its members are no consumers"
		row.Do = "move it with the tools of the program that made it"
	}
	return refusal(fmt.Sprintf("an ordinary consumer group on %s", c), "", row)
}

// streams recognises members of Kafka Streams by what they are called and how
// they assign.
func streams(c starferry.ClusterName, g GroupSeen) *Failure {
	var rows []Row
	for _, m := range g.Members {
		if g.Protocol == "stream" || strings.Contains(m.Client, "-StreamThread-") {
			rows = append(rows, Row{Subject: m.ID, What: fmt.Sprintf("client id %s, host %s, on %s", m.Client, m.Host, c), Why: "a thread of Kafka Streams",
				Do: "its state lies in changelog topics beside its offsets: copy these topics as well, stop the application, move its group with mode=\"external\", and start it on the new cluster"})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	return refusal(fmt.Sprintf("an ordinary consumer group on %s", c), "", rows...)
}

// outdated names the instances that speak an older protocol.
func (d *Driver) outdated() *Failure {
	var rows []Row
	for _, l := range d.leases {
		if l.Version < control.ProtocolVersion {
			rows = append(rows, Row{Subject: string(l.Instance), What: fmt.Sprintf("on %s speaks version %d (library %s)", l.Host, l.Version, cmpOr(l.Library, "unknown")),
				Why: "it would not understand every order", Do: "deploy a newer library to it first"})
		}
	}
	if len(rows) == 0 {
		return nil
	}
	slices.SortFunc(rows, func(a, b Row) int { return cmp.Compare(a.Subject, b.Subject) })
	return refusal(fmt.Sprintf("every instance to speak protocol version %d", control.ProtocolVersion), "", rows...)
}
