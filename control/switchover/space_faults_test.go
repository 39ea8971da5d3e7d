package switchover

// The faults that a search may let happen.
const (
	crashes    = "crash"        // kill -9, with or without its commits under way
	losses     = "lost answer"  // a commit is applied, its answer is lost
	delays     = "late commit"  // a commit is not answered, and is applied later
	latecomers = "deploy"       // one more instance, in the middle
	stops      = "stop"         // an instance is stopped in good order
	rebalances = "rebalance"    // of either group
	takeovers  = "takeover"     // another agent goes on with the same request
	agentless  = "no agent"     // the agent is gone for good
	natsless   = "no NATS"      // NATS and with it every agent is gone for good
	deaf       = "deaf"         // one instance loses NATS for good
	emptied    = "KV emptied"   //
	restored   = "KV restored"  // from a backup taken at any moment
	freezes    = "freeze"       // SIGSTOP longer than the session
	deadlines  = "deadline"     // of the agent, or of one instance
	rivals     = "rival"        // another agent with a request of its own
	lateness   = "late message" // an answer of Kafka, or a lease, comes later than others
	unfenced   = "lost fence"   // the session of the fence ends, and agents take it anew
)

var allFaults = []string{crashes, losses, delays, latecomers, stops, rebalances, takeovers, agentless, natsless, deaf, emptied, restored, freezes, deadlines, rivals, lateness, unfenced}

func (b *branches) faults() {
	w := &b.was
	for i := range w.peers {
		if w.peers[i].Up == up {
			b.ofInstance(i)
		}
	}
	b.ofAgent()
	b.ofKV()
	if b.sp.kinds[rebalances] {
		for c := range w.grp {
			if w.grp[c].State == stable {
				b.add(fault, func(w *scene) { w.prepare(uint8(c)) }, "FAULT: %s rebalances", spaceNames[c])
			}
		}
	}
	if b.sp.kinds[unfenced] && w.grp[oldSide].Fenced && w.agent != 0 {
		b.add(fault, func(w *scene) { w.grp[oldSide].Fenced = false }, "FAULT: old: the session of the fence expires")
	}
	if i := w.sp.instances; b.sp.kinds[latecomers] && i < maxPeers && w.peers[i].Up == absent {
		b.add(fault, func(w *scene) { w.peers[i].NATS = w.rest.NATS; w.boot(i) }, "FAULT: i%d is deployed", i)
	}
}

func (b *branches) ofInstance(i int) {
	w := &b.was
	kinds := b.sp.kinds
	if kinds[crashes] {
		b.add(fault, func(w *scene) { w.crash(i) }, "FAULT: i%d crashes", i)
	}
	if kinds[freezes] {
		b.add(fault, func(w *scene) { w.excuse(i); w.peers[i].Up = frozen }, "FAULT: i%d freezes", i)
	}
	if kinds[stops] {
		b.add(fault, func(w *scene) { w.step(i, memberStep{kind: evStop}) }, "FAULT: i%d is stopped", i)
	}
	if kinds[deaf] && w.peers[i].NATS && w.rest.NATS {
		b.add(fault, func(w *scene) { w.peers[i].NATS = false }, "FAULT: i%d loses NATS", i)
	}
	m := w.sp.members.vals[w.member[i]]
	if kinds[deadlines] && m.draining != 0 && !m.wayOut {
		b.add(fault, func(w *scene) { w.step(i, memberStep{kind: evDeadline}) }, "FAULT: the drain deadline of i%d passes early", i)
	}
	if kinds[lateness] && !b.sp.fine && w.peers[i].NATS && !w.peers[i].Mute && !w.leadersEnded() && w.lease[i] != w.leaseOf(i) {
		b.add(fault, func(w *scene) { w.peers[i].Mute = true }, "FAULT: the lease of i%d is late", i)
	}
	for c := range w.peers[i].Side {
		c := uint8(c)
		if s := w.peers[i].Side[c]; kinds[lateness] && !b.sp.fine && !s.Slow && m.sides[spaceNames[c]].readID != 0 {
			b.add(fault, func(w *scene) { w.peers[i].Side[c].Slow, w.peers[i].Side[c].Read = true, w.com[c] }, "FAULT: what i%d reads on %s is late", i, spaceNames[c])
		}
		if w.peers[i].Side[c].Write != out {
			continue
		}
		if kinds[lateness] && !b.sp.fine {
			b.add(fault, func(w *scene) { w.write(i, c) }, "FAULT: i%d's commit on %s is applied, the answer is late", i, spaceNames[c])
		}
		if kinds[losses] {
			b.add(fault, func(w *scene) {
				w.write(i, c)
				w.peers[i].Side[c].Write = unclear
				w.answered(i, c)
			}, "FAULT: i%d's commit on %s is applied, the answer is lost", i, spaceNames[c])
		}
		if kinds[delays] {
			b.add(fault, func(w *scene) {
				w.keep(i, c)
				w.peers[i].Side[c].Write = unclear
				w.answered(i, c)
			}, "FAULT: i%d's commit on %s is not answered, and still under way", i, spaceNames[c])
		}
		if kinds[crashes] {
			b.add(fault, func(w *scene) { w.keep(i, c); w.crash(i) }, "FAULT: i%d crashes, its commit on %s is still under way", i, spaceNames[c])
		}
	}
}

// keep leaves a commit in the network.
func (w *scene) keep(i int, c uint8) {
	k := w.sp.members.vals[w.member[i]].sides[spaceNames[c]].pending
	t := twin{On: true, Peer: uint8(i), Serial: w.peers[i].Side[c].Serial, Side: c, Gen: k.Generation, K: w.carried(k)}
	for n := range w.rest.Twins {
		if !w.rest.Twins[n].On {
			w.rest.Twins[n] = t
			return
		}
	}
}

func (w *scene) crash(i int) {
	w.excuse(i)
	for c := range w.grp {
		w.grp[c].bury(i)
	}
	p := &w.peers[i]
	*p = peer{Up: down, Boot: p.Boot, Home: p.Home, NATS: p.NATS}
	w.member[i] = 0
}

func (b *branches) ofAgent() {
	w := &b.was
	kinds := b.sp.kinds
	running := w.agent != 0 && w.sp.leaders.vals[w.agent].End == 0
	if kinds[takeovers] && running {
		b.add(fault, func(w *scene) { w.hire(w.sp.leaders.vals[w.agent].D.req) }, "FAULT: another agent takes over")
	}
	if kinds[agentless] && w.agent != 0 {
		b.add(fault, func(w *scene) { w.agent = 0 }, "FAULT: the agent is gone for good")
	}
	if kinds[natsless] && w.rest.NATS {
		b.add(fault, func(w *scene) {
			w.rest.NATS, w.agent, w.rival, w.lease = false, 0, 0, [maxPeers]uint32{}
			w.kv, w.backup = w.sp.stores.id(&store{}), 0
			for i := range w.peers {
				w.peers[i].NATS = false
			}
		}, "FAULT: NATS and the agent are gone for good")
	}
	if kinds[lateness] && !b.sp.fine && running {
		if l := w.sp.leaders.vals[w.agent]; l.Answer == nil && w.answerable(l.D) {
			b.add(fault, answerLate(func(w *scene) *uint32 { return &w.agent }), "FAULT: the agent's answers are late")
		}
	}
	if kinds[deadlines] {
		b.late(fault)
	}
	if kinds[rivals] && running && w.rival == 0 {
		b.add(fault, func(w *scene) {
			r := w.sp.leaders.vals[w.agent].D.req
			r.Token = "rival"
			l := &leader{D: NewDriver(r)}
			w.sp.tidyLeader(l, w.rest.now(), w.rest.now())
			w.rival = w.sp.leaders.id(l)
			w.tell(&w.rival, newsLeases)
		}, "FAULT: a rival asks for the same")
	}
}

func (b *branches) ofKV() {
	w := &b.was
	kinds := b.sp.kinds
	st := w.sp.stores.vals[w.kv]
	if kinds[emptied] && w.rest.NATS && st.P != nil {
		b.add(fault, func(w *scene) {
			w.kv, w.lease = w.sp.stores.id(&store{}), [maxPeers]uint32{} // numbers begin anew
			w.leasesSeen()
		}, "FAULT: KV is emptied")
	}
	if !kinds[restored] || !w.rest.NATS {
		return
	}
	if !w.rest.Saved && st.P != nil {
		b.add(normal, func(w *scene) { w.rest.Saved, w.backup = true, w.kv }, "a backup of KV is taken: %s %d", st.P.Phase, st.P.Epoch)
	}
	if w.rest.Saved && w.backup != 0 && w.backup != w.kv {
		b.add(fault, func(w *scene) {
			st := w.sp.stores.copy(w.backup)
			st.Seq = st.Rev
			w.kv, w.backup = w.sp.stores.id(st), 0
		}, "FAULT: KV is restored from the backup")
	}
}
