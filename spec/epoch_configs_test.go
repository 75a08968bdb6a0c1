package spec

import (
	"strings"
	"testing"
	"time"
)

// What a change affects.
const (
	first  hit = 1 << 0 // a tag's epoch, or a group's
	second hit = 1 << 1
	both       = first | second
)

// epochConfigs are explored to the end.
func epochConfigs() []config {
	once, early, standby := readerKind{runs: 1}, readerKind{runs: 1, early: true}, readerKind{runs: 1, standby: true}
	twice, joins, token := readerKind{runs: 2}, readerKind{runs: 1, joins: true}, readerKind{runs: 1, token: true}
	bounded, session := readerKind{runs: 1, bounded: true}, readerKind{runs: 2, session: true}
	before, beforeStandby := readerKind{runs: 1, before: true, early: true}, readerKind{runs: 1, before: true, standby: true}
	one := [maxTxs]hit{first, first, first}
	configs := []config{
		{name: "epochs: two writers, two readers", txs: 2, daemons: 1, readers: []readerKind{once, early}, epochs: 1, hits: one},
		{name: "epochs: three writers", txs: 3, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, cached: true, others: 1},
		{name: "epochs: one writer's of the key", txs: 2, daemons: 1, readers: []readerKind{once, once}, epochs: 1, hits: [maxTxs]hit{hitKey, first}, script: true},
		{name: "epochs: a writer of both", txs: 2, daemons: 1, readers: []readerKind{twice}, epochs: 2, hits: [maxTxs]hit{both, second}, cached: true, others: 1},
		{name: "epochs: a coarse event", txs: 2, daemons: 1, readers: []readerKind{once}, epochs: 2, hits: [maxTxs]hit{first, second}, others: 2},
		{name: "epochs: a path", txs: 3, daemons: 1, readers: []readerKind{once}, epochs: 2, hits: [maxTxs]hit{hitKey, first, second}, path: true},
		{name: "epochs: a path, one transaction moves and changes", txs: 3, daemons: 1, readers: []readerKind{once}, epochs: 2, hits: [maxTxs]hit{hitKey | second, first, second}, path: true, cached: true},
		{name: "epochs: a path, a standby", txs: 2, daemons: 1, readers: []readerKind{standby}, epochs: 2, hits: [maxTxs]hit{hitKey, second}, path: true, cached: true},
		{name: "epochs: read before the load", txs: 2, daemons: 1, readers: []readerKind{before, once}, epochs: 1, hits: one, others: 1},
		{name: "epochs: read before the load, a standby", txs: 2, daemons: 1, readers: []readerKind{beforeStandby}, epochs: 1, hits: one, others: 1},
		{name: "epochs: a standby", txs: 2, daemons: 1, readers: []readerKind{standby}, epochs: 1, hits: one, others: 1},
		{name: "epochs: a standby and the primary", txs: 1, daemons: 1, readers: []readerKind{{runs: 2, standby: true}, once}, epochs: 1, hits: one, others: 1},
		{name: "epochs: eviction", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, evictions: 2},
		{name: "epochs: eviction, two readers", txs: 1, daemons: 1, readers: []readerKind{once, early}, epochs: 1, hits: one, evictions: 1, cached: true},
		{name: "epochs: failover", txs: 2, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, failovers: 1, cached: true},
		{name: "epochs: failover, two readers", txs: 1, daemons: 1, readers: []readerKind{once, once}, epochs: 1, hits: one, failovers: 1},
		{name: "epochs: failover, a standby", txs: 1, daemons: 1, readers: []readerKind{standby}, epochs: 1, hits: one, failovers: 1, cached: true, others: 1},
		{name: "epochs: the old master answers", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, failovers: 1, oldMaster: true, cached: true, others: 1},
		{name: "epochs: two daemons", txs: 1, daemons: 2, readers: []readerKind{once}, epochs: 1, hits: one, cached: true, others: 1},
		{name: "epochs: names move", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, moves: 1, others: 1},
		{name: "epochs: names move, a standby", txs: 1, daemons: 1, readers: []readerKind{standby}, epochs: 1, hits: one, moves: 1, others: 1},
		{name: "epochs: a waiter", txs: 1, daemons: 1, readers: []readerKind{once, joins}, epochs: 1, hits: one, others: 1},
		{name: "epochs: a waiter for a load from a standby", txs: 1, daemons: 1, readers: []readerKind{standby, joins}, epochs: 1, hits: one, others: 1},
		{name: "epochs: tokens", txs: 1, daemons: 1, readers: []readerKind{once, token}, epochs: 1, hits: one, others: 1},
		{name: "epochs: tokens, two writers", txs: 2, daemons: 1, readers: []readerKind{token}, epochs: 1, hits: one, cached: true, others: 1},
		{name: "epochs: bounds", txs: 1, daemons: 1, readers: []readerKind{bounded}, epochs: 1, hits: one, cached: true, others: 1},
		{name: "epochs: a session", txs: 1, daemons: 1, readers: []readerKind{once, session}, epochs: 1, hits: one, others: 1},
		{name: "epochs: late SETs", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, resends: true, others: 1},
		{name: "epochs: the primary crashes", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, crashes: 1, others: 1},
		{name: "epochs: confirms by script, early fences", txs: 2, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: [maxTxs]hit{hitKey | first, first}, script: true, early: true},
	}
	if deep() {
		configs = append(configs, deepEpochConfigs()...)
	}
	return configs
}

// deepEpochConfigs are explored by make spec as well.
func deepEpochConfigs() []config {
	once, standby, token := readerKind{runs: 1}, readerKind{runs: 1, standby: true}, readerKind{runs: 1, token: true}
	twice, joins, before := readerKind{runs: 2}, readerKind{runs: 1, joins: true}, readerKind{runs: 1, before: true}
	one := [maxTxs]hit{first, first, first}
	return []config{
		{name: "deep: epochs: two daemons, eviction", txs: 1, daemons: 2, readers: []readerKind{once}, epochs: 1, hits: one, evictions: 1},
		{name: "deep: epochs: three writers", txs: 3, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, cached: true, others: 1},
		{name: "deep: epochs: three writers, two readers", txs: 3, daemons: 1, readers: []readerKind{once, before}, epochs: 1, hits: one},
		{name: "deep: epochs: a path, a standby", txs: 3, daemons: 1, readers: []readerKind{standby}, epochs: 2, hits: [maxTxs]hit{hitKey, first, second}, path: true},
		{name: "deep: epochs: a path, two readers", txs: 2, daemons: 1, readers: []readerKind{once, once}, epochs: 2, hits: [maxTxs]hit{hitKey | second, second}, path: true, script: true},
		{name: "deep: epochs: a path, failover", txs: 2, daemons: 1, readers: []readerKind{twice}, epochs: 2, hits: [maxTxs]hit{hitKey, second}, path: true, failovers: 1},
		{name: "deep: epochs: two, of one writer, two readers", txs: 1, daemons: 1, readers: []readerKind{twice, once}, epochs: 2, hits: [maxTxs]hit{both}, cached: true, others: 2},
		{name: "deep: epochs: failover, eviction", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, failovers: 1, evictions: 1, cached: true, others: 1},
		{name: "deep: epochs: failover, two readers", txs: 1, daemons: 1, readers: []readerKind{once, once}, epochs: 1, hits: one, failovers: 1, others: 1},
		{name: "deep: epochs: failover, a standby and the primary", txs: 1, daemons: 1, readers: []readerKind{standby, once}, epochs: 1, hits: one, failovers: 1, cached: true, others: 1},
		{name: "deep: epochs: the old master answers", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, failovers: 1, oldMaster: true, others: 1},
		{name: "deep: epochs: two daemons, failover", txs: 1, daemons: 2, readers: []readerKind{once}, epochs: 1, hits: one, failovers: 1, cached: true, others: 1},
		{name: "deep: epochs: two daemons, a standby", txs: 1, daemons: 2, readers: []readerKind{standby}, epochs: 1, hits: one, cached: true, others: 1},
		{name: "deep: epochs: names move, failover", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, moves: 1, failovers: 1, others: 1},
		{name: "deep: epochs: names move, eviction", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, moves: 1, evictions: 1},
		{name: "deep: epochs: a waiter, failover", txs: 1, daemons: 1, readers: []readerKind{once, joins}, epochs: 1, hits: one, failovers: 1},
		{name: "deep: epochs: a waiter for a load from a standby", txs: 2, daemons: 1, readers: []readerKind{standby, joins}, epochs: 1, hits: one},
		{name: "deep: epochs: tokens, failover", txs: 1, daemons: 1, readers: []readerKind{once, token}, epochs: 1, hits: one, failovers: 1, cached: true, others: 1},
		{name: "deep: epochs: late SETs, eviction", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, resends: true, evictions: 1, others: 1},
		{name: "deep: epochs: late SETs, failover", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, resends: true, failovers: 1},
		{name: "deep: epochs: the primary crashes, two writers", txs: 2, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, crashes: 1},
	}
}

// TestEpochs explores values that depend on epochs, with the machinery of TestProtocol.
func TestEpochs(t *testing.T) {
	t.Parallel()
	began := time.Now()
	total := 0
	for _, c := range epochConfigs() {
		at := time.Now()
		r := explore(c, 25_000_000)
		total += r.states
		t.Logf("%-60s %9d states, %v", c.name, r.states, time.Since(at).Round(time.Millisecond))
		if r.limit {
			t.Errorf("%s: not exhausted", c.name)
		}
		if r.broken != "" {
			t.Errorf("%s: %s\n%s", c.name, r.broken, strings.Join(r.trace, "\n"))
		}
	}
	t.Logf("%d states in all, every one of them, %v", total, time.Since(began).Round(time.Millisecond))
}

// TestEachPieceOfEpochsIsNeeded leaves out one piece of what epochs rest on, as TestEachPieceIsNeeded does.
func TestEachPieceOfEpochsIsNeeded(t *testing.T) {
	t.Parallel()
	once, standby := readerKind{runs: 1}, readerKind{runs: 1, standby: true}
	twice, joins, token := readerKind{runs: 2}, readerKind{runs: 1, joins: true}, readerKind{runs: 1, token: true}
	one := [maxTxs]hit{first, first, first}
	eachPiece(t, []piece{
		{config{
			name: "epochs: INTENT after UNLINK", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, without: without{intentFirst: true},
		}, "I2"},
		{config{
			name: "epochs: S_b is not asked", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, without: without{begun: true},
		}, "I2"},
		{config{
			name: "epochs: S_b is asked before they are made", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one,
			without: without{epochsFirst: true},
		}, "I2"},
		{config{
			name: "epochs: HEAD of another server than they are on", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, failovers: 1,
			oldMaster: true, without: without{headOfSets: true},
		}, "I2"},
		{config{
			name: "epochs: no floor under a standby", txs: 1, daemons: 1, readers: []readerKind{standby}, epochs: 1, hits: one,
			without: without{epochFloor: true},
		}, "I2"},
		{config{
			name: "epochs: a standby's row is handed out before their floors are asked", txs: 1, daemons: 1, readers: []readerKind{standby}, epochs: 1, hits: one,
			without: without{rowFloor: true},
		}, "handed out"},
		{config{
			name: "epochs: a waiter asks for the floor of its key alone", txs: 1, daemons: 1, readers: []readerKind{standby, joins}, epochs: 1, hits: one,
			without: without{waiterFloor: true},
		}, "waiter"},
		{config{
			name: "epochs: an id that was used before", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, others: 1, without: without{freshID: true},
		}, "I2"},
		{config{
			name: "epochs: an id that is sent twice", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, resends: true,
			without: without{sentOnce: true},
		}, "I2"},
		{config{
			name: "epochs: a missing one is as good as any", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, cached: true,
			without: without{missing: true},
		}, "I2"},
		{config{
			name: "epochs: a process goes on with the ids that it knows", txs: 1, daemons: 1, readers: []readerKind{twice}, epochs: 1, hits: one, cached: true,
			without: without{epochsAgain: true},
		}, "served"},
		{config{
			name: "epochs: read before the value, which is judged as of when it was read", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one,
			cached: true, without: without{keyFirst: true},
		}, "served"},
		{config{
			name: "epochs: read over another connection than the value", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 1, hits: one, cached: true, failovers: 1,
			without: without{oneConnection: true},
		}, "served"},
		{config{
			name: "epochs: read over another connection than HEAD", txs: 1, daemons: 1, readers: []readerKind{token}, epochs: 1, hits: one, cached: true, failovers: 1,
			without: without{oneConnection: true},
		}, "served"},
		{config{
			name: "epochs: a waiter reads HEAD over another connection than its LEASE", txs: 1, daemons: 1, readers: []readerKind{once, joins}, epochs: 1, hits: one,
			failovers: 1, without: without{oneConnection: true},
		}, "waiter"},
		{config{
			name: "epochs: a dead value keeps a fill out", txs: 1, daemons: 1, readers: []readerKind{once, standby}, epochs: 1, hits: one, cached: true,
			without: without{overDead: true},
		}, "dead"},
		{config{
			name: "epochs: tags of another statement", txs: 2, daemons: 1, readers: []readerKind{once}, epochs: 2, hits: [maxTxs]hit{hitKey, second}, path: true,
			without: without{sameStatement: true},
		}, "I2"},
		{config{
			name: "epochs: a coarse event, and values without their rule's epoch", txs: 1, daemons: 1, readers: []readerKind{once}, epochs: 2, hits: [maxTxs]hit{first},
			without: without{coarse: true},
		}, "I2"},
	})
}
