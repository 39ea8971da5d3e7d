package switchover

import (
	"fmt"
	"slices"

	"github.com/starferry/starferry"
	"github.com/starferry/starferry/control"
)

// look finds out where the group lives and what is open, and begins, continues,
// repairs or ends accordingly.
func (d *Driver) look() {
	switch {
	case d.stored && d.p.Open() && !d.mine():
		d.others()
		return
	case d.stored && d.p.Phase == control.Announce:
		d.enter(announcing)
		return
	}
	clusters := []starferry.ClusterName{d.req.Source, d.req.Target}
	f := d.facts(Ask{Describe: clusters, Commits: clusters, Link: d.topics()})
	if f == nil {
		return
	}
	home, epoch, moved := Truth(f.Commits)
	switch {
	case moved && epoch >= d.p.Epoch && (!d.stored || d.p.Open() || home != d.p.Active):
		d.repair(home, epoch, "Kafka says moved")
	case d.stored && home != "" && epoch > d.p.Epoch && home != d.p.Active:
		d.repair(home, epoch, "Kafka knows a later epoch")
	case d.stored && d.p.Open():
		d.takeOver(f)
	default:
		d.begin(f, home)
	}
}

// others waits for somebody else's switch to end, and undoes it if nobody
// drives it any more.
func (d *Driver) others() {
	patience := max(d.p.DrainDeadlineMS, d.req.DrainDeadline)
	if d.now-d.beatAt <= patience {
		d.say(thing("a switch to %s by %q is open since epoch %d; it goes on, or is undone after %d ms of silence", d.p.Target, d.p.By, d.p.Epoch, patience))
		if d.now >= d.retryAt {
			d.retryAt = d.now + 4*retryEvery
			d.reading = true
			d.do(ReadStored{})
		}
		return
	}
	d.undoOther = true
	d.decideGen = 0
	if d.p.Phase == control.Decide && d.p.Actor != nil {
		d.decideGen = d.p.Actor.Generation
	}
	d.write(d.steadyBack())
}

// repair announces what Kafka has decided and KV does not know.
func (d *Driver) repair(home starferry.ClusterName, e starferry.Epoch, why string) {
	p := d.p
	switch {
	case p.Active != home && p.Active != "":
		p.Standby = p.Active
	case p.Active == "" && home == d.req.Target: // nothing was stored
		p.Standby = d.req.Source
	case p.Active == "":
		p.Standby = d.req.Target
	}
	p.Epoch, p.Phase, p.Active, p.Target, p.Actor = e, control.Announce, home, home, nil
	p.StandbyUntil, d.decidedAt = d.now+d.req.Standby, d.now
	if e == d.own && home == d.req.Target { // the order to go back has dropped whose it was
		p.Token, p.By, p.Why, p.Link = d.req.Token, d.req.By, d.req.Why, d.req.Link
	}
	d.say(thing("%s: the group lives on %s since epoch %d, so the placement is set right", why, home, e))
	d.write(p)
}

// takeOver continues this request's own open switch, which an agent that is
// gone has left.
func (d *Driver) takeOver(f *Answers) {
	if d.p.Link != d.req.Link || d.p.Active != d.req.Source {
		d.fail(Failure{Expected: fmt.Sprintf("the open switch to lead from %s over link %s", d.req.Source, d.req.Link),
			Found: []string{fmt.Sprintf("it leads from %s over link %s", d.p.Active, d.p.Link)},
			Do:    "ask again with the same source, target and link, or with another token"})
		return
	}
	d.follow()
}

// begin opens the switch if there is something to be done and nothing speaks
// against it.
func (d *Driver) begin(f *Answers, home starferry.ClusterName) {
	if home == "" && d.stored {
		home = d.p.Active
	}
	if home == "" {
		home = d.req.Source
	}
	if home == d.req.Target {
		d.there()
		return
	}
	if refusal := d.survey(f, home); refusal != nil {
		refusal.Stands = fmt.Sprintf("nothing has been changed; the group lives on %s", home)
		d.fail(*refusal)
		return
	}
	d.write(control.Placement{
		Epoch: d.highest(f.Commits) + 1, Phase: control.Prepare, Active: d.req.Source, Target: d.req.Target,
		Link: d.req.Link, DrainDeadlineMS: d.req.DrainDeadline, By: d.req.By, Why: d.req.Why, Token: d.req.Token,
	})
}

// there ends a switch that is done already: by this request, or by another.
func (d *Driver) there() {
	note := fmt.Sprintf("the group lived on %s already", d.req.Target)
	if d.stored && d.p.Token == d.req.Token {
		d.attempts = max(d.attempts, 1)
		note = "it was made before, by the same request"
	}
	if d.stored && d.p.Active == d.req.Target && d.p.Cut == nil && (d.p.Token == d.req.Token || d.p.Token == "") {
		d.notes = append(d.notes, note)
		d.enter(verifying) // which recalls it
		return
	}
	d.finish(note)
}

// survey refuses what could not end well, before anything is changed.
func (d *Driver) survey(f *Answers, home starferry.ClusterName) *Failure {
	if home != d.req.Source {
		return &Failure{Expected: fmt.Sprintf("the group to live on %s", d.req.Source), Found: []string{fmt.Sprintf("it lives on %s", home)},
			Do: fmt.Sprintf("switch it from %s", home)}
	}
	src := f.Groups[d.req.Source]
	for _, c := range []starferry.ClusterName{d.req.Source, d.req.Target} {
		if refusal := foreignGroup(c, f.Groups[c]); refusal != nil {
			return refusal
		}
	}
	if len(d.leases) == 0 {
		return d.nobody(src, f.Commits[d.req.Source])
	}
	if old := d.outdated(); old != nil {
		return old
	}
	var foreign []Row
	found := f.Commits[d.req.Target]
	for _, tp := range found.partitions() {
		if c := found[tp]; c.Mark == nil {
			foreign = append(foreign, Row{Subject: tp.String(), What: fmt.Sprintf("at %d on %s", c.Offset, d.req.Target), Why: "committed by another client"})
		}
	}
	if len(foreign) > 0 {
		return refusal(fmt.Sprintf("no offsets of another client for this group on %s", d.req.Target),
			fmt.Sprintf("make sure that nothing else uses the group there, then delete its offsets: kafka-consumer-groups.sh --delete-offsets on %s", d.req.Target), foreign...)
	}
	return d.lanes(f.Link)
}

func (d *Driver) nobody(src GroupSeen, commits Found) *Failure {
	const expected = "live instances that use the starferry library"
	var rows []Row
	for _, m := range src.Members {
		rows = append(rows, stranger{d.req.Source, m}.row())
	}
	switch {
	case len(rows) > 0:
		return refusal(expected, "deploy the library to that service and give it the address of NATS; or stop it and move its group with mode=\"external\"", rows...)
	case len(commits) > 0:
		return refusal(expected, "", Row{Subject: "group on " + string(d.req.Source), What: fmt.Sprintf("has committed offsets of %d partitions and no member", len(commits)),
			Do: "start the service and switch again; or move it as it is with mode=\"external\""})
	}
	return refusal(expected, "", Row{Subject: "group on " + string(d.req.Source), What: "has neither a member nor a committed offset", Do: "check the name of the group"})
}

// String names the member as an operator finds it.
func (m MemberSeen) String() string {
	return fmt.Sprintf("%s (client id %s, host %s)", m.ID, m.Client, m.Host)
}

// lanes refuses topics that the link does not copy and lanes that will not move
// by themselves.
func (d *Driver) lanes(l *LinkSeen) *Failure {
	if l == nil {
		l = &LinkSeen{}
	}
	var outside, stopped []Row
	for _, tp := range d.partitions() {
		if why, ok := l.Stopped[tp]; ok {
			stopped = append(stopped, Row{Subject: tp.String(), What: "is not being copied", Why: why, Do: "remove the reason"})
		} else if _, ok := l.Lag[tp]; !ok {
			outside = append(outside, Row{Subject: tp.String(), What: "is read by the group", Why: fmt.Sprintf("link %s does not copy it", d.req.Link)})
		}
	}
	if len(outside) > 0 {
		return refusal(fmt.Sprintf("every partition the group reads to be copied by link %s", d.req.Link),
			"add their topics to the link with replicate, or unsubscribe from them", outside...)
	}
	if len(stopped) > 0 {
		return refusal(fmt.Sprintf("every lane of link %s to be healthy", d.req.Link), "remove the reason, then switch again (starferry links shows it)", stopped...)
	}
	return nil
}

// topics are those the live instances subscribe to.
func (d *Driver) topics() []starferry.Topic {
	seen := map[starferry.Topic]bool{}
	var all []starferry.Topic
	for _, l := range d.leases {
		for _, t := range l.Topics {
			if !seen[t] {
				seen[t] = true
				all = append(all, t)
			}
		}
	}
	slices.Sort(all)
	return all
}

// partitions are those the members own, on any cluster of the switch, in order.
func (d *Driver) partitions() []starferry.TopicPartition {
	seen := map[starferry.TopicPartition]bool{}
	for _, l := range d.leases {
		for _, m := range l.Memberships {
			for _, tp := range m.Partitions {
				seen[tp] = true
			}
		}
	}
	all := make([]starferry.TopicPartition, 0, len(seen))
	for tp := range seen {
		all = append(all, tp)
	}
	slices.SortFunc(all, starferry.TopicPartition.Compare)
	return all
}
