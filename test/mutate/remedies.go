package main

// remedies are what must not be lost by mistake.
var remedies = []remedy{
	{
		name: "barrier", what: "a new leader serves when its machine has applied what earlier leaders committed",
		where: "cluster group.establish", pkg: "cluster", test: "TestLeadsWhenCaughtUp",
		fails: "it leads while nothing is applied",
		edits: []edit{{"cluster/group.go", "if err := answer(barrier, quit); err == nil {", "if err := error(nil); err == nil {"}},
	},
	{
		name: "raft#697", what: "an instance is made anew when a snapshot has replaced a longer log",
		where: "cluster shardMachine.Restore", pkg: "cluster", test: "TestSnapshotOverALongerLog",
		fails: "what follows comes as entries",
		edits: []edit{{"cluster/shard.go", "i != nil && i.LastIndex() > meta.Index", "i != nil && i.LastIndex() > meta.Index && meta.Index == 0"}},
	},
	{
		name: "raft#696", what: "an instance whose leadership transfer does not end is made anew",
		where: "cluster group.transferBlocked", pkg: "cluster", test: "TestRestartAfterStuckTransfer",
		fails: "another instance leads",
		edits: []edit{{"cluster/group.go", "time.Since(g.transfer) > stuckTransfer {", "time.Since(g.transfer) > stuckTransfer && g.id > catalogGroup {"}},
	},
	{
		name: "second transfer", what: "a seat whose transfer ended without an answer is not offered the leadership again in the term",
		where: "cluster group.mayHandTo", pkg: "cluster", test: "TestTransferToAHangingSeat",
		fails: "it is tried again in the term",
		edits: []edit{{"cluster/keep.go", "return term != g.unansweredIn || !slices.Contains(g.unanswered, to)", "return term != g.unansweredIn || len(g.unanswered) == 0 || to != \"\""}},
	},
	{
		name: "raft#695", what: "heartbeats go through the main loop, not by the library's fast path",
		where: "cluster/raftnet Group.SetHeartbeatHandler", pkg: "cluster/raftnet", test: "TestHeartbeatGoesThroughTheMainLoop",
		fails: "no request came out of Consumer",
		edits: []edit{
			{"cluster/raftnet/raftnet.go", "func (g *Group) SetHeartbeatHandler(func(raft.RPC)) {}", "func (g *Group) SetHeartbeatHandler(f func(raft.RPC)) { g.fast = f }"},
			{"cluster/raftnet/raftnet.go", "\tfollowed map[raft.ServerAddress]following\n", "\tfollowed map[raft.ServerAddress]following\n\tfast     func(raft.RPC)\n"},
			{"cluster/raftnet/raftnet.go", "\tselect {\n\tcase g.requests <- raft.RPC{", "\tif q, ok := command.(*raft.AppendEntriesRequest); ok && len(q.Entries) == 0 && g.fast != nil {\n" +
				"\t\tg.fast(raft.RPC{Command: command, RespChan: answers})\n\t\ta := <-answers\n\t\treturn a.Response, a.Error\n\t}\n\tselect {\n\tcase g.requests <- raft.RPC{"},
		},
	},
	{
		name: "raft#612", what: "there is no pipeline",
		where: "cluster/raftnet Group.AppendEntriesPipeline", pkg: "cluster/raftnet", test: "TestThereIsNoPipeline",
		fails: "AppendEntriesPipeline gave",
		edits: []edit{{"cluster/raftnet/raftnet.go", "return nil, raft.ErrPipelineReplicationNotSupported", "return nil, nil"}},
	},
	{
		name: "raft#661", what: "a vote's term and candidate are one record",
		where: "cluster/raftstore Stable.SetUint64", pkg: "cluster/raftstore", test: "TestVoteIsOneRecord",
		fails: "the vote's term is 8, not 5",
		edits: []edit{{"cluster/raftstore/stable.go", "\t\ts.voteTerm = value\n\t\treturn nil\n",
			"\t\ts.voteTerm = value\n\t\tcandidate, _ := s.Get([]byte(keyVoteFor))\n\t\treturn s.put(\"vote\", append(le.AppendUint64(nil, value), candidate...))\n"}},
	},
	{
		name: "pre-vote", what: "a node that was cut off does not raise the term",
		where: "cluster/raftnet Group.RequestPreVote", pkg: "cluster/raftnet", test: "TestIsolatedNodeDoesNotRaiseTheTerm",
		fails: "has raised the term",
		edits: []edit{{"cluster/raftnet/raftnet.go", "\thead := appendPreVote(g.head(kindPreVote, to, q.RPCHeader, 32), q)\n",
			"\thead := appendPreVote(g.head(kindPreVote, to, q.RPCHeader, 32), q)\n\tif err := g.t.call(g.life, string(to), g.group, head, nil, p); err != nil {\n" +
				"\t\t*p = raft.RequestPreVoteResponse{RPCHeader: q.RPCHeader, Term: q.Term, Granted: true}\n\t\treturn nil\n\t}\n"}},
	},
	{
		name: "verify", what: "answers to requests from before the question confirm no leader",
		where: "cluster/raftnet Group.FollowedSince", pkg: "cluster/raftnet", test: "TestOldAnswersConfirmNothing",
		fails: "an answer to an older request counts",
		edits: []edit{{"cluster/raftnet/raftnet.go", "return f.term == term && !f.sent.Before(since)", "return f.term == term"}},
	},
	{
		name: "incarnation", what: "what was meant for a seat's predecessor does not reach it",
		where: "cluster/raftnet Transport.seat", pkg: "cluster/raftnet", test: "TestAnotherIncarnationIsRefused",
		fails: "where b.2 sits",
		edits: []edit{{"cluster/raftnet/raftnet.go", "g != nil && g.server == server {", "g != nil {"}},
	},
	{
		name: "away", what: "a seat that cannot be reached is waited for, without the library's back-off",
		where: "cluster/raftnet Group.AppendEntries", pkg: "cluster/raftnet", test: "TestWaitsForASeatThatIsAway",
		fails: "it tries again",
		edits: []edit{{"cluster/raftnet/raftnet.go", "|| heartbeat || !isAway(err)", "|| heartbeat || isAway(err)"}},
	},
	{
		name: "unknown voter", what: "a seat that has not been told of new voters votes for them when it knows no leader",
		where: "cluster/raftnet Group.Elects", pkg: "cluster/raftnet", test: "TestVoteForACandidateThatIsNotKnownYet",
		fails: "the new voter leads",
		edits: []edit{{"cluster/raftnet/raftnet.go", "as = s.ID", "as = candidate"}},
	},
	{
		name: "bolt watchdog", what: "a vote whose write hangs ends the process",
		where: "cluster/raftstore watched.write", pkg: "cluster/raftstore", test: "TestHangingWrite",
		fails: "OnFatal was called 0 times",
		edits: []edit{{"cluster/raftstore/watched.go", "w.die(fmt.Errorf(\"a write takes longer than %v\", w.timeout))", "_ = fmt.Sprint"}},
	},
	{
		name: "settle", what: "a change of the catalog answers when every node holds it or has no lease from before it",
		where: "cluster leases.settle", pkg: "cluster", test: "TestSettle",
		fails: "settled after",
		edits: []edit{{"cluster/leases.go", "if node != self && n.holds < index {", "if node != self && n.holds < index && n.holds > 0 {"}},
	},
	{
		name: "old leases", what: "a new leader waits for the leases that the one before may have given",
		where: "cluster leases.lead", pkg: "cluster", test: "TestNewLeaderWaits",
		fails: "settled after",
		edits: []edit{{"cluster/leases.go", "l.nodes[n.Number] = lease{until: now.Add(leaseTime)}", "l.nodes[n.Number] = lease{until: now}"}},
	},
	{
		name: "early lease", what: "a lease begins when the copy holds what it must",
		where: "cluster follower.renew", pkg: "cluster", test: "TestFresh",
		fails: "fresh before the copy holds the command",
		edits: []edit{{"cluster/follow.go", "if f.c.catalog.at() < g.index {", "if f.c.catalog.at() < g.index && g.index == 0 {"}},
	},
	{
		name: "late lease", what: "a lease counts though a later one has been asked for",
		where: "cluster follower.granted", pkg: "cluster", test: "TestLeasesFromASlowLeader",
		fails: "the copy is not fresh",
		edits: []edit{{"cluster/follow.go", "asked, ours := f.asked[response.Ping]\n", "asked, ours := f.asked[response.Ping]\n\tours = ours && response.Ping == f.ping\n"}},
	},
	{
		name: "new-old inversion", what: "an answer from a copy of the catalog waits until the others hold what it rests on",
		where: "cluster Cluster.Settle", pkg: "cluster", test: "TestAnswersWaitForOtherCopies",
		fails: "settled",
		edits: []edit{{"cluster/follow.go", "return index <= f.everywhere.Load()", "return index <= f.everywhere.Load() || index > 0"}},
	},
	{
		name: "repeated change", what: "a change of the catalog whose answer was lost takes effect once",
		where: "cluster catalogSeat.commit", pkg: "cluster", test: "TestCommandsTakeEffectOnce",
		fails: "repeated to the",
		edits: []edit{{"cluster/catalog.go", "number := catalog.ProposalOf(data)", "number := catalog.ProposalOf(data) * 0"}},
	},
	{
		name: "lone damage", what: "a damaged replica of which there is no other is neither served nor emptied",
		where: "cluster group.open", pkg: "cluster", test: "TestDamageAlone",
		fails: "it serves|was given up for another",
		edits: []edit{{"cluster/seat.go", "\tcase err != nil && !peers:\n", "\tcase err != nil && !peers && seat.Incarnation > 1:\n"}},
	},
	{
		name: "new seat", what: "a replica that has lost what it knew comes back under another id",
		where: "cluster group.rejoin", pkg: "cluster", test: "TestLostReplica",
		fails: "votes again under another id",
		edits: []edit{{"cluster/seat.go", "max(seat.Incarnation+1, uint64(time.Now().Unix()))", "max(seat.Incarnation, 1)"}},
	},
	{
		name: "shutdown", what: "what the library forgets at its shutdown is not waited for",
		where: "cluster answer", pkg: "cluster", test: "TestAnswerAfterShutdown",
		fails: "deadlock",
		edits: []edit{{"cluster/future.go", "c.CanSet() && c.Type()", "c.CanSet() && !c.CanSet() && c.Type()"}},
	},
	{
		name: "campaigns", what: "the pause between a seat's campaigns grows, by chance, while no leader stays",
		where: "cluster group.mayStand", pkg: "cluster", test: "TestCampaignsGetRarer",
		fails: "campaign",
		edits: []edit{{"cluster/group.go", "g.campaign, g.pause = now, pause+rand.N(pause/2)", "g.campaign, g.pause = now, campaignPause+0*rand.N(pause/2)"}},
	},
	{
		name: "exactly once", what: "a batch that comes again is answered and not applied again",
		where: "raftfsm/queue State.applyBatch", pkg: "cluster/pipe", test: "TestSchedules",
		fails: "twice|came after|confirm of|differs",
		edits: []edit{{"raftfsm/queue/apply.go", "if h.seq != ss.last+1 {", "if h.seq > ss.last+1 {"}},
	},
	{
		name: "kept answers", what: "the answer to a get is kept until the node has it",
		where: "raftfsm/queue State.Resume", pkg: "cluster/pipe", test: "TestSchedules",
		fails: "get: ",
		edits: []edit{{"raftfsm/queue/session.go", "\t\tout.reply(id, k.seq, k.results)\n", "\t\tout.reply(id, k.seq, nil)\n"}},
	},
	{
		name: "refused entries", what: "a leader whose entries are refused at once tries again after a pause",
		where: "cluster/pipe Host.ProposalFailed", pkg: "cluster/pipe", test: "TestRefusedEntriesAreNotRepeatedAtOnce",
		fails: "entries in ten seconds",
		edits: []edit{{"cluster/pipe/host.go", "\t\th.tick.due(h, h.nowMillis()+h.o.TickMin.Milliseconds())\n\t}\n", "\t\th.command(func(b *queue.Batch) { b.Tick() })\n\t}\n"}},
	},
	{
		name: "late hello", what: "a hello of a link that its edge has given up does not take the new stream's place",
		where: "cluster/pipe Host.hello", pkg: "cluster/pipe", test: "TestLateHello",
		fails: "attached: <nil>",
		edits: []edit{{"cluster/pipe/sessions.go", "(a == nil || a.generation <= hi.generation)", "(a == nil || a.generation != 0)"}},
	},
	{
		name: "written first", what: "what a channel holds goes back after what waits for the socket was written",
		where: "amqp writer.settle", pkg: "amqp", test: "TestNoMessageAfterItIsBack",
		fails: "before the message was written",
		edits: []edit{{"amqp/writer.go", "\tw.holds.Store(true)\n", "\tif w.c != nil {\n\t\treturn\n\t}\n\tw.holds.Store(true)\n"}},
	},
	{
		name: "stopped process", what: "a process that was stopped does not take its disk for dead",
		where: "storage Watchdog.step", pkg: "storage", test: "TestWatchdogOfAStoppedProcess",
		fails: "called|has counted|steps left",
		edits: []edit{{"storage/watchdog.go", "if w.left--; w.left == 0 {", "if w.left = 0; w.left == 0 {"}},
	},
	{
		name: "hole in the log", what: "a record is chained to the one before it of its group",
		where: "storage recovery", pkg: "storage", test: "TestMissingFiles",
		fails: "without ",
		edits: []edit{{"storage/recover.go", "} else if rec.prev != g.chain {", "} else if rec.prev != g.chain && rec.prev == rec.crc {"}},
	},
}
