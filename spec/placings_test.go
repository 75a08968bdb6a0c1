package spec

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

func troubles() []trouble {
	source, target := [maxServers]bool{true, false}, [maxServers]bool{false, true}
	return []trouble{
		{name: "moves at once", opens: 1, atOnce: true},
		{name: "and its server fails over", opens: 1, atOnce: true, failovers: source},
		{name: "moves record by record", opens: 1},
		{name: "and the source fails over", opens: 1, failovers: source},
		{name: "and the target fails over", opens: 1, failovers: target},
		{name: "and that is given up", opens: 1, undone: 1},
		{name: "before anybody looked", opens: 1, undone: 1, unseen: true},
	}
}

// phases reads an order: INTENT, CONFIRM and ADVANCE, each with the slot, or the master, that it is for.
func phases(text string) (order []phase) {
	for word := range strings.FieldsSeq(text) {
		order = append(order, phase{what: uint8(strings.IndexByte("ICA", word[0])), unit: word[1] - '0'})
	}
	return order
}

// rule is what this protocol does in a cluster.
func rule() placing {
	return placing{
		name: "bound, and left alone while the slot is open", order: phases("I0 C0 A0"), bound: true, checked: true, refuses: true, spares: true, want: "------w",
	}
}

func placings() []placing {
	lane := phases("I0 C0 A0")
	return []placing{
		{name: "for each master, advanced when its own keys are confirmed", perMaster: true, order: phases("I0 I1 C1 A1 C0 A0"), want: "wwwwwww"},
		{name: "the same, INTENT and confirms by one master after the other", perMaster: true, order: phases("I0 C0 I1 C1 A0 A1"), want: "wwwwwww"},
		{name: "the same, three phases over all masters", perMaster: true, order: phases("I0 I1 C0 C1 A0 A1"), want: "-w-wwww"},
		{name: "for each lane, taken up where it is", order: lane, follow: true, want: "---wwww"},
		{name: "the same, and left alone while the slot is open", order: lane, refuses: true, want: "---w--w"},
		{name: "bound to a history, for the daemon", order: lane, bound: true, refuses: true, want: "---w--w"},
		{name: "bound, and a promoted replica goes on", order: lane, bound: true, checked: true, promoted: true, refuses: true, want: "---w--w"},
		{name: "bound, and confirms go where they are sent", order: lane, bound: true, checked: true, follow: true, want: "----www"},
		{name: "bound", order: lane, bound: true, checked: true, want: "-----ww"},
		rule(),
		{name: "bound, and what was moved away is counted", order: lane, bound: true, checked: true, tallied: true, want: "-------"},
	}
}

// TestPlacings looks for the placing of HEADs that survives what a cluster does. With -v it prints the shortest way to each
// violation.
func TestPlacings(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	total := 0
	for _, p := range placings() {
		fmt.Fprintf(&table, "| %s |", p.name)
		for i, tr := range troubles() {
			r := exploreCluster(clusterConfig{placing: p, trouble: tr, slots: 1, txs: 1, daemons: 1, readers: []readerKind{{runs: 1, standby: true}}}, 5_000_000)
			total += r.states
			verdict, want := fine, fine
			if strings.HasPrefix(r.broken, "I2") {
				verdict = watermark
			}
			if p.want[i] == 'w' {
				want = watermark
			}
			fmt.Fprintf(&table, " %s, %d |", verdict, r.states)
			if verdict != want || r.limit || verdict == fine && r.broken != "" {
				t.Errorf("%s, %s: %q among %d states, want %s\n%s", p.name, tr.name, r.broken, r.states, want, strings.Join(r.trace, "\n"))
			} else if verdict != fine {
				t.Logf("%s, %s: %s\n  %s", p.name, tr.name, r.broken, strings.Join(r.trace, "\n  "))
			}
		}
		table.WriteString("\n")
	}
	t.Logf("verdict and number of states, %d in all:\n%s", total, table.String())
	documented, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(string(documented), "| --- |\n"+table.String()+"\n") {
		t.Errorf("docs/protocol.md does not have this table:\n%s", table.String())
	}
}

// laneConfigs explore the rule further: lanes each in its own time, and in three phases over all.
func laneConfigs() []clusterConfig {
	standby, early, token := readerKind{runs: 1, standby: true}, readerKind{runs: 1, early: true}, readerKind{runs: 1, token: true}
	source, target, both := [maxServers]bool{true, false}, [maxServers]bool{false, true}, [maxServers]bool{true, true}
	moves, sourceFails, bothFail := trouble{opens: 1}, trouble{opens: 1, failovers: source}, trouble{opens: 1, failovers: both}
	two := rule()
	two.order = phases("I0 C0 A0 I1 C1 A1")
	joint := rule()
	joint.order = phases("I0 I1 C0 C1 A0 A1")
	one, apart := [maxSlots]set{0b01, 0b00}, [maxSlots]set{0b01, 0b10}
	counted := rule()
	counted.refuses, counted.tallied = false, true
	configs := []clusterConfig{
		{name: "two daemons", trouble: moves, slots: 1, txs: 1, daemons: 2, readers: []readerKind{standby}},
		{name: "tokens", trouble: moves, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby, token}},
		{name: "eviction", trouble: trouble{opens: 1, evictions: 1}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}},
		{name: "confirms by script, source fails over", trouble: sourceFails, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}, script: true},
		{name: "two lanes", placing: two, trouble: moves, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby}},
		{name: "two lanes, three phases", placing: joint, trouble: moves, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby}},
		{name: "two lanes, a change of one", placing: joint, trouble: moves, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby}, touches: one},
		{name: "two lanes, a change of each", placing: joint, trouble: trouble{atOnce: true, opens: 1}, slots: 2, txs: 2, daemons: 1, readers: []readerKind{standby}, touches: apart},
	}
	once := readerKind{runs: 1}
	configs = append(configs,
		clusterConfig{name: "epochs", trouble: moves, slots: 1, txs: 1, daemons: 1, readers: []readerKind{once}, epoch: true},
		clusterConfig{name: "epochs, two reads", trouble: trouble{}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{{runs: 2}, once}, epoch: true},
		clusterConfig{name: "epochs, a standby", trouble: moves, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}, epoch: true},
		clusterConfig{name: "epochs, source fails over", trouble: sourceFails, slots: 1, txs: 1, daemons: 1, readers: []readerKind{once}, epoch: true},
		clusterConfig{name: "epochs, target fails over", trouble: trouble{opens: 1, failovers: target}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{once}, epoch: true},
		clusterConfig{name: "epochs, given up", trouble: trouble{opens: 1, undone: 1}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{once}, epoch: true},
		clusterConfig{name: "epochs, tokens", trouble: moves, slots: 1, txs: 1, daemons: 1, readers: []readerKind{once, token}, epoch: true},
		clusterConfig{name: "epochs in two lanes, the second's server fails over", placing: joint, trouble: trouble{failovers: target}, slots: 2, spread: true, txs: 1, daemons: 1, readers: []readerKind{once, once}, epoch: true},
	)
	if deep() {
		configs = append(configs,
			clusterConfig{name: "deep: two writers, source fails over", trouble: sourceFails, slots: 1, txs: 2, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: both fail over", trouble: bothFail, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: both fail over, a second read", trouble: bothFail, slots: 1, txs: 1, daemons: 1, readers: []readerKind{{runs: 2, standby: true}}},
			clusterConfig{name: "deep: there and back, source fails over", trouble: trouble{opens: 2, failovers: source}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: there and back, target fails over", trouble: trouble{opens: 2, failovers: target}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: two daemons, source fails over", trouble: sourceFails, slots: 1, txs: 1, daemons: 2, readers: []readerKind{standby}},
			clusterConfig{name: "deep: two daemons, target fails over", trouble: trouble{opens: 1, failovers: target}, slots: 1, txs: 1, daemons: 2, readers: []readerKind{standby}},
			clusterConfig{name: "deep: a snapshot older than its lease, source fails over", trouble: sourceFails, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby, early}},
			clusterConfig{name: "deep: tokens, source fails over", trouble: sourceFails, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby, token}},
			clusterConfig{name: "deep: two lanes, a reader of each", placing: two, trouble: moves, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby, standby}},
			clusterConfig{name: "deep: two lanes, three phases, a reader of each", placing: joint, trouble: moves, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby, standby}},
			clusterConfig{name: "deep: two lanes, three phases, source fails over", placing: joint, trouble: sourceFails, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: two lanes, source fails over", placing: two, trouble: sourceFails, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: two lanes, a change of one, source fails over", placing: joint, trouble: sourceFails, slots: 2, txs: 1, daemons: 1, readers: []readerKind{standby}, touches: one},
			clusterConfig{name: "deep: two lanes, a change of each, a slot moves record by record", placing: joint, trouble: moves, slots: 2, txs: 2, daemons: 1, readers: []readerKind{standby}, touches: apart},
			clusterConfig{name: "deep: given up, source fails over", trouble: trouble{opens: 1, undone: 1, failovers: source}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: given up, two daemons", trouble: trouble{opens: 1, undone: 1}, slots: 1, txs: 1, daemons: 2, readers: []readerKind{standby}},
			clusterConfig{name: "deep: counted, there and back, target fails over", placing: counted, trouble: trouble{opens: 2, failovers: target, unseen: true}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}},
			clusterConfig{name: "deep: source fails over, eviction", trouble: trouble{opens: 1, failovers: source, evictions: 1}, slots: 1, txs: 1, daemons: 1, readers: []readerKind{standby}},
		)
	}
	for i := range configs {
		configs[i].sessions = true
		if configs[i].order == nil {
			configs[i].placing = rule()
		}
	}
	return configs
}

func TestLanes(t *testing.T) {
	t.Parallel()
	began, total := time.Now(), 0
	for _, c := range laneConfigs() {
		r := exploreCluster(c, 25_000_000)
		total += r.states
		t.Logf("%-60s %9d states, %v", c.name, r.states, time.Since(began).Round(time.Millisecond))
		if r.broken != "" || r.limit {
			t.Errorf("%s: %q, all states: %v\n%s", c.name, r.broken, !r.limit, strings.Join(r.trace, "\n"))
		}
	}
	t.Logf("%d states in all, every one of them", total)
}

// TestEachPieceOfLanesIsNeeded leaves out what TestPlacings does not, and shows what the rule rests on.
func TestEachPieceOfLanesIsNeeded(t *testing.T) {
	t.Parallel()
	standby, token := readerKind{runs: 1, standby: true}, readerKind{runs: 1, token: true}
	apart, hasty, silent, elsewhere := rule(), rule(), rule(), rule()
	apart.apart, hasty.hasty, silent.silent = true, true, true
	elsewhere.elsewhere, elsewhere.order = true, phases("I0 I1 C0 C1 A0 A1")
	thereAndBack := trouble{opens: 2, failovers: [maxServers]bool{false, true}, unseen: true}
	for _, tt := range []struct {
		clusterConfig
		want string
	}{
		{clusterConfig{name: "HEAD of another server, or of another history", placing: apart, trouble: troubles()[3], readers: []readerKind{standby, token}}, "served"},
		{clusterConfig{name: "nobody waits when a lane is begun again", placing: hasty, trouble: troubles()[2], readers: []readerKind{{runs: 2, standby: true}}}, "served"},
		{clusterConfig{name: "no INTENT where keys are", placing: silent, readers: []readerKind{standby}}, "I2"},
		{clusterConfig{name: "the same, by a session", placing: silent, sessions: true}, "Si"},
		{clusterConfig{name: "there and back before anybody looked", placing: rule(), trouble: thereAndBack, readers: []readerKind{standby}}, "I2"},
		{clusterConfig{
			name: "an epoch in one lane, a value in another", placing: elsewhere, trouble: trouble{failovers: [maxServers]bool{false, true}}, spread: true,
			readers: []readerKind{{runs: 1}}, epoch: true,
		}, "I2"},
	} {
		tt.slots, tt.txs, tt.daemons = 1, 1, 1
		if tt.spread {
			tt.slots = 2
		}
		r := exploreCluster(tt.clusterConfig, 5_000_000)
		if !strings.Contains(r.broken, tt.want) {
			t.Errorf("%s: %q among %d states, want %s", tt.name, r.broken, r.states, tt.want)
		}
		t.Logf("%s: %s, found among %d states:\n%s", tt.name, r.broken, r.states, strings.Join(r.trace, "\n"))
	}
}
