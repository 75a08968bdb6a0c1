package spec

import (
	"strings"
	"testing"
)

// TestEachPieceIsNeeded leaves one piece out of the protocol at a time, and must find what then goes wrong. A piece
// whose absence nobody notices would not be needed, or the model would not see it.
func TestEachPieceIsNeeded(t *testing.T) {
	t.Parallel()
	once, early := readerKind{runs: 1}, readerKind{runs: 1, early: true}
	twice, standby, old := readerKind{runs: 2}, readerKind{runs: 1, standby: true}, readerKind{runs: 2, old: true}
	joins, token, bounded := readerKind{runs: 1, joins: true}, readerKind{runs: 1, token: true}, readerKind{runs: 1, bounded: true}
	session := readerKind{runs: 2, session: true}
	eachPiece(t, []piece{
		{config{
			name: "T2: no gate on visibility", txs: 1, daemons: 1, readers: []readerKind{once}, without: without{gate: true},
		}, "I1"},
		{config{
			name: "T1: no lease", txs: 1, daemons: 1, readers: []readerKind{once}, without: without{lease: true},
		}, "I2"},
		{config{
			name: "T14: no floor under a snapshot older than the lease", txs: 1, daemons: 1, readers: []readerKind{early}, without: without{floor: true},
		}, "I2"},
		{config{
			name: "R2: HEAD read before the lease", txs: 1, daemons: 1, readers: []readerKind{early}, without: without{leaseBeforeRead: true},
		}, "I2"},
		{config{
			name: "T17: intent after the confirms", txs: 1, daemons: 1, readers: []readerKind{early}, without: without{intentFirst: true},
		}, "I2"},
		{config{
			name: "D3: a confirm by script leaves leases as they are", txs: 1, daemons: 1, readers: []readerKind{once}, script: true,
			without: without{confirmFences: true},
		}, "I2"},
		{config{
			name: "D3: a confirm by script keeps old values", txs: 1, daemons: 1, readers: []readerKind{once}, script: true,
			without: without{confirmCovers: true},
		}, "I2"},
		{config{
			name: "T8: HEAD is not compared", txs: 1, daemons: 1, readers: []readerKind{once}, failovers: 1, without: without{compare: true},
		}, "I1"},
		{config{
			name: "T18: the store's history is not compared", txs: 1, daemons: 1, readers: []readerKind{once}, failovers: 1, without: without{replid: true},
		}, "I1"},
		{config{
			name: "T33: out of order is remembered across a lost history", txs: 2, daemons: 1, readers: []readerKind{once}, failovers: 1, without: without{forgetDone: true},
		}, "I1"},
		{config{
			name: "T22: no terms", txs: 1, daemons: 2, readers: []readerKind{once}, moves: 1, without: without{term: true},
		}, "I2"},
		{config{
			name: "T31: HEAD from memory", txs: 1, daemons: 1, readers: []readerKind{once}, evictions: 1, failovers: 1, without: without{newGeneration: true},
		}, "I1"},
		{config{
			name: "T19: a roster is never confirmed again", txs: 1, daemons: 1, readers: []readerKind{twice}, moves: 1, without: without{roster: true},
		}, "served"},
		{config{
			name: "T36: a roster is judged before the GET", txs: 1, daemons: 1, readers: []readerKind{twice}, moves: 1, without: without{judgedAfter: true},
		}, "served"},
		{config{
			name: "D7: nobody waits for the old names", txs: 1, daemons: 1, readers: []readerKind{twice}, moves: 1, without: without{wait: true},
		}, "served"},
		{config{
			name: "D7: a daemon that takes over does not wait", txs: 1, daemons: 2, readers: []readerKind{twice}, moves: 1, without: without{claimWait: true},
		}, "served"},
		{config{
			name: "D7: an older daemon's roster is left to be written", txs: 1, daemons: 2, readers: []readerKind{once}, moves: 1, without: without{republish: true},
		}, "I3"},
		{config{
			name: "T35: a name returns", txs: 1, daemons: 1, readers: []readerKind{twice}, moves: 2, without: without{activation: true},
		}, "I2"},
		{config{
			name: "D7: an earlier version is not confirmed", txs: 1, daemons: 1, readers: []readerKind{old}, versions: true,
			without: without{confirmAll: true},
		}, "I2"},
		{config{
			name: "D7: nobody waits for the readers of a retired version", txs: 1, daemons: 1, readers: []readerKind{old}, versions: true, retires: 1,
			without: without{retireWait: true},
		}, "served"},
		{config{
			name: "D7: a revision returns after a failover", txs: 1, daemons: 1, readers: []readerKind{{runs: 3}}, moves: 2, failovers: 1, without: without{freshRevision: true},
		}, "served"},
		{config{
			name: "T6: a standby's snapshot", txs: 2, daemons: 1, readers: []readerKind{standby}, without: without{position: true},
		}, "I2"},
		{config{
			name: "T11, T12: a standby's position from after the row", txs: 1, daemons: 1, readers: []readerKind{standby}, without: without{priorPosition: true},
		}, "I2"},
		{config{
			name: "T13: no floor under a standby", txs: 1, daemons: 1, readers: []readerKind{standby}, without: without{floor: true},
		}, "I2"},
		{config{
			name: "T17: a standby's floor is Wc", txs: 1, daemons: 1, readers: []readerKind{standby}, without: without{intentFloor: true},
		}, "I2"},
		{config{
			name: "R4: the floor of a new name", txs: 1, daemons: 1, readers: []readerKind{standby}, moves: 1, without: without{moveFloor: true},
		}, "I2"},
		{config{
			name: "T15: a promoted standby is followed as before", txs: 1, daemons: 1, readers: []readerKind{once}, script: true, promotes: 1,
			without: without{alive: true},
		}, "I1"},
		{config{
			name: "T20: crash recovery goes unnoticed", txs: 1, daemons: 1, readers: []readerKind{once}, script: true, crashes: 1,
			without: without{alive: true},
		}, "I2"},
		{config{
			name: "T28: a waiter takes whatever its lease's holder loaded", txs: 1, daemons: 1, readers: []readerKind{once, joins}, script: true,
			without: without{fits: true},
		}, "waiter"},
		{config{
			name: "T28: a waiter joins whoever loads the key", txs: 1, daemons: 1, readers: []readerKind{once, joins}, without: without{sameLease: true, fits: true},
		}, "waiter"},
		{config{
			name: "T32: INTENT is not compared", txs: 2, daemons: 1, readers: []readerKind{once}, failovers: 1, without: without{intentCompares: true},
		}, "I1"},
		{config{
			name: "T34: a confirm passes over a lease that has ended", txs: 1, daemons: 1, readers: []readerKind{standby}, script: true, clock: true,
			without: without{endedLease: true},
		}, "I2"},
		{config{
			name: "tokens: HEAD is read after the value", txs: 1, daemons: 1, readers: []readerKind{once, token}, without: without{headBeforeKey: true},
		}, "served"},
		{config{
			name: "tokens: HEAD of another connection", txs: 1, daemons: 1, readers: []readerKind{once, token}, failovers: 1,
			without: without{oneConnection: true},
		}, "served"},
		{config{
			name: "D6: Sa before the log was read so far", txs: 1, daemons: 1, readers: []readerKind{once, token}, without: without{saWaits: true},
		}, "served"},
		{config{
			name: "D6: a bound by an Sa before the log was read so far", txs: 1, daemons: 1, readers: []readerKind{once, bounded}, without: without{saWaits: true},
		}, "served"},
		{config{
			name: "D6: the count is read after the snapshot", txs: 1, daemons: 1, readers: []readerKind{once, bounded}, without: without{tickBefore: true},
		}, "served"},
		{config{
			name: "D6: a count that began anew", txs: 1, daemons: 1, readers: []readerKind{{runs: 2, bounded: true}}, evictions: 1, without: without{tickID: true},
		}, "served"},
		{config{
			name: "D6: a count that goes on after a failover, as the old master's does", txs: 1, daemons: 1, readers: []readerKind{bounded},
			failovers: 1, oldMaster: true, counts: 1, cached: true, without: without{drawCount: true},
		}, "served"},
		{config{
			name: "a strict commit: no fences before COMMIT", txs: 1, daemons: 1, readers: []readerKind{twice}, strict: true, unheard: true,
			without: without{fenceBefore: true},
		}, "served"},
		{config{
			name: "a strict commit: no fences after COMMIT", txs: 1, daemons: 1, readers: []readerKind{twice}, strict: true, evictions: 1, keysOnly: true,
			without: without{fenceAgain: true},
		}, "served"},
		{config{
			name: "T21: a new table's entries are live at once", txs: 1, daemons: 1, readers: []readerKind{once}, adds: true,
			without: without{admission: true},
		}, "I2"},
		{config{
			name: "D8: a daemon that takes over does not wait", txs: 1, daemons: 2, readers: []readerKind{once}, adds: true,
			without: without{admitAgain: true},
		}, "I2"},
		{config{
			name: "D8: the floor of an entry that goes live", txs: 1, daemons: 1, readers: []readerKind{standby}, adds: true,
			without: without{moveFloor: true},
		}, "I2"},
		{config{
			name: "sessions: what was seen is not merged", txs: 1, daemons: 1, readers: []readerKind{session}, failovers: 1, cached: true,
			without: without{merges: true},
		}, "served"},
		{config{
			name: "sessions: a standby's value that Wc has not passed", txs: 1, daemons: 1, readers: []readerKind{standby, session},
			without: without{passed: true},
		}, "served"},
		{config{
			name: "sessions: Sa before the log was read so far", txs: 1, daemons: 1, readers: []readerKind{once, session}, without: without{saWaits: true},
		}, "served"},
	})
}

// piece is a configuration that leaves something out.
type piece struct {
	config
	want string // the invariant that breaks
}

// eachPiece looks for what goes wrong, and holds that nothing does with the piece in its place.
func eachPiece(t *testing.T, pieces []piece) {
	t.Helper()
	for _, tt := range pieces {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			tt.safety = tt.want != "I3"
			r := explore(tt.config, 20_000_000)
			if !strings.Contains(r.broken, tt.want) {
				t.Fatalf("broken: %q after %d states (all of them: %v), want %s\n%s", r.broken, r.states, !r.limit, tt.want, strings.Join(r.trace, "\n"))
			}
			t.Logf("%s, found among %d states:\n%s", r.broken, r.states, strings.Join(r.trace, "\n"))
			// And with the piece in its place, the same bounds hold.
			tt.safety, tt.without = false, without{}
			if r := explore(tt.config, 20_000_000); r.broken != "" || r.limit {
				t.Errorf("with the piece: %q, %d states\n%s", r.broken, r.states, strings.Join(r.trace, "\n"))
			}
		})
	}
}
