package spec

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
)

// What follows compares ways to find the values that a changed row affects through another row: sets of the keys that were filled
// through a tag, with fences as keys have them, and epochs. It is a small model, of one key that depends on one tag alone, two
// writers who change what the tag stands for, and two reads; leases, floors and the gate are as they should be.

// tagScheme says how it is done.
type tagScheme struct {
	name   string
	epochs bool // read beside the value; otherwise sets of members
	// Of sets:
	mark     bool // St: what sees every transaction whose fence was trimmed, and which a fill has to see as well
	markEnd  bool // Lt: the same for standbys
	byTime   bool // instead of a mark, a fence is kept until the leases have ended that it might be for
	askEnd   bool // and a FILL asks whether its own has
	clears   bool // an invalidation removes the members that it has found
	nonce    bool // the sweeper removes a member only if it was not added again since it looked
	apart    bool // the set, or the epoch, is on another server than the value
	script   bool // confirms are by script: a value that contains the transaction stays
	wantFail [tagColumns]bool
}

const tagColumns = 8

// tagColumn is what befalls it.
type tagColumn struct {
	name            string
	writers         uint8
	standby         bool // the first read is of a standby
	trims, sweeps   bool
	ends, stepsBack bool // leases end, by a clock that steps back
	evicts, fails   bool
}

// tagged is what the store has for the tag.
type tagged struct {
	member bool
	nonce  uint8
	fences set
	epoch  uint8
}

type tagState struct {
	log             [schemeWriters]uint8
	flushed         uint8
	visible         set
	replayed        uint8
	tag, replica    tagged
	lagging, failed bool
	evicted         bool
	// The key's record.
	live   bool
	value  set
	pair   uint8
	token  uint8
	ended  bool
	fences set
	// HEAD.
	si, st, begun set
	wi, lt, wc    uint8
	// Who invalidates.
	pc, at      uint8 // the transaction that it is at
	batch, done set
	found       bool
	// The sweeper.
	sweep, saw uint8
	swept      bool
	stepped    bool // Redis' clock has stepped back
	reads      [2]tagRead
}

type tagRead struct {
	pc       uint8
	position uint8
	value    set
	fences   set
	si       set
	wi       uint8
	pair     uint8
}

// The steps of a read after those of schemeRead, and of an invalidation.
const (
	readJoins  uint8 = 16 + iota // adds the key to the set, or makes the epoch
	readFences                   // reads the set's fences
	readMark                     // and then HEAD once more
)

const (
	tagIdle uint8 = iota
	tagIntent
	tagFence
	tagMembers
	tagConfirm
	tagAdvance
)

type tagExplorer struct {
	tagScheme
	tagColumn
	naming bool
	yield  func(n *tagState, action, broken string)
}

func (x *tagExplorer) emit(n tagState, format string, args ...any) {
	action := ""
	if x.naming {
		action = fmt.Sprintf(format, args...)
	}
	x.yield(&n, action, "")
}

func (s *tagState) upTo(position uint8) (all set) {
	for _, tx := range s.log[:position] {
		all |= 1 << tx
	}
	return all
}

func (s *tagState) end(tx uint8) uint8 { return uint8(slices.Index(s.log[:s.flushed], tx)) + 1 }

// alive reports whether the value is a hit.
func (x *tagExplorer) alive(s *tagState) bool {
	return s.live && (!x.epochs || s.pair == s.tag.epoch)
}

func (x *tagExplorer) steps(s tagState) {
	for tx := range x.writers {
		n := s
		switch {
		case !slices.Contains(s.log[:s.flushed], tx):
			n.log[n.flushed] = tx
			n.flushed++
			x.emit(n, "writer %d: commit record flushed, readers do not see it", tx+1)
		case !s.visible.has(tx):
			n.visible |= 1 << tx
			x.emit(n, "writer %d: becomes visible", tx+1)
		}
	}
	if n := s; x.standby && s.replayed < s.flushed {
		n.replayed++
		x.emit(n, "standby: replays up to %d", n.replayed)
	}
	x.invalidate(s)
	x.faults(s)
	if !x.epochs {
		x.trim(s)
		x.sweeper(s)
	}
	for i := range uint8(len(s.reads)) {
		x.read(s, i)
	}
}

func (x *tagExplorer) faults(s tagState) {
	if n := s; s.token != 0 && !s.ended && x.ends {
		n.ended = true
		x.emit(n, "redis: the lease ends")
	}
	if n := s; s.ended && x.stepsBack && !s.stepped {
		n.ended, n.stepped = false, true
		x.emit(n, "redis: its clock steps back, and the lease has not ended")
	}
	if n := s; x.evicts && !s.evicted {
		if n.evicted, n.tag = true, (tagged{}); n.tag != s.tag {
			x.emit(n, "redis: evicts what it has for the tag")
		}
		if n = s; s.live || s.token != 0 {
			n.evicted, n.live, n.value, n.pair, n.token, n.ended, n.fences = true, false, 0, 0, 0, false, 0
			x.emit(n, "redis: evicts the key")
		}
	}
	if !x.fails || !x.apart {
		return
	}
	if n := s; !s.lagging && !s.failed {
		n.lagging, n.replica = true, s.tag
		x.emit(n, "redis: the replica of the tag's server stops here")
	}
	if n := s; s.lagging {
		n.tag, n.replica, n.lagging, n.failed = s.replica, tagged{}, false, true
		x.emit(n, "redis: that is promoted")
	}
}

// invalidate is a step of the daemon's.
func (x *tagExplorer) invalidate(s tagState) {
	n := s
	switch s.pc {
	case tagIdle:
		if batch := s.upTo(s.flushed) & s.visible &^ s.done; batch != 0 {
			n.pc, n.batch, n.at = tagIntent, batch, 0
			x.emit(n, "daemon: gate: %02b", batch)
		}
	case tagIntent:
		n.si |= s.visible
		for tx := range uint8(schemeWriters) {
			if s.batch.has(tx) {
				n.wi = max(n.wi, s.end(tx))
			}
		}
		n.begun |= s.visible // of epochs alone
		n.nextOf(0, x.epochs)
		x.emit(n, "daemon: INTENT for %02b", s.batch)
	case tagFence:
		if n.pc = tagMembers; x.epochs {
			n.tag.epoch = 0
			n.pc = tagAdvance
			x.emit(n, "daemon: UNLINKs the epoch")
			return
		}
		n.tag.fences |= 1 << s.at
		x.emit(n, "daemon: fences the set for writer %d", s.at+1)
	case tagMembers:
		n.pc, n.found = tagConfirm, s.tag.member
		if x.clears {
			n.tag.member = false
		}
		x.emit(n, "daemon: reads the members for writer %d: there %v", s.at+1, n.found)
	case tagConfirm:
		if s.found {
			n.confirm(s.at, x.script)
		}
		n.found = false
		n.nextOf(s.at+1, false)
		x.emit(n, "daemon: confirms for writer %d, if the key was a member: %v", s.at+1, s.found)
	case tagAdvance:
		n.pc, n.at, n.batch, n.done = tagIdle, 0, 0, s.done|s.batch
		for n.wc < s.flushed && n.done.has(s.log[n.wc]) {
			n.wc++
		}
		x.emit(n, "daemon: ADVANCE to %d", n.wc)
	}
}

// nextOf goes on with the next transaction of the batch. For epochs all are one.
func (s *tagState) nextOf(from uint8, all bool) {
	for s.at = from; s.at < schemeWriters; s.at++ {
		if s.batch.has(s.at) {
			s.pc = tagFence
			return
		}
	}
	if s.at, s.pc = 0, tagAdvance; all {
		s.pc = tagFence
	}
}

// confirm is CONFIRM, or UNLINK.
func (s *tagState) confirm(tx uint8, script bool) {
	if !script {
		s.live, s.value, s.pair, s.token, s.ended, s.fences = false, 0, 0, 0, false, 0
		return
	}
	if s.live && !s.value.has(tx) {
		s.live, s.value, s.pair = false, 0, 0
	}
	if s.token != 0 {
		s.fences |= 1 << tx
	}
}

// trim removes fences that have done their work.
func (x *tagExplorer) trim(s tagState) {
	for tx := range uint8(schemeWriters) {
		if !x.trims || !s.tag.fences.has(tx) || !s.done.has(tx) || x.byTime && s.token != 0 && !s.ended {
			continue
		}
		n := s
		n.tag.fences &^= 1 << tx
		if x.mark {
			n.st |= s.visible
		}
		if x.markEnd {
			n.lt = max(n.lt, s.end(tx))
		}
		x.emit(n, "daemon: trims the set's fence for writer %d", tx+1)
	}
}

// sweeper removes members that are nobody's any more.
func (x *tagExplorer) sweeper(s tagState) {
	n := s
	switch {
	case !x.sweeps || s.swept:
	case s.sweep == 0 && s.tag.member:
		n.sweep, n.saw = 1, s.tag.nonce
		x.emit(n, "sweeper: finds the member")
	case s.sweep == 1:
		if n.sweep = 2; s.live || s.token != 0 {
			n.sweep, n.saw, n.swept = 0, 0, true
		}
		x.emit(n, "sweeper: sees that the key is absent: %v", n.sweep == 2)
	case s.sweep == 2:
		if n.sweep, n.saw, n.swept = 0, 0, true; !x.nonce || s.tag.nonce == s.saw {
			n.tag.member = false
		}
		x.emit(n, "sweeper: removes the member: %v", !n.tag.member)
	}
}

func (x *tagExplorer) read(s tagState, i uint8) {
	n := s
	r := &n.reads[i]
	standby := x.standby && i == 0
	say := func(format string, args ...any) { x.emit(n, "reader %d: "+format, append([]any{i + 1}, args...)...) }
	switch r.pc {
	case readBegins:
		if x.alive(&s) || s.token != 0 && !s.ended {
			*r = tagRead{pc: readOver}
			say("a hit, or another's lease")
			return
		}
		n.token, n.ended, r.pc = i+1, false, readHead
		say("a miss; LEASE")
	case readHead:
		if r.pc, r.si, r.wi = readLoads, s.si, s.wi; standby {
			r.pc = readPosition
		}
		say("HEAD: Si %02b, Wi %d", r.si, r.wi)
	case readPosition:
		r.pc, r.position = readLoads, s.replayed
		say("the standby is at %d", r.position)
	case readLoads:
		if r.pc, r.value = readJoins, s.visible; standby {
			r.value = s.upTo(s.replayed)
		}
		say("loads what contains %02b", r.value)
	case readJoins:
		if r.pc = readFences; x.epochs {
			if n.tag.epoch == 0 {
				n.tag.epoch = i + 1
			}
			r.pc, r.pair = readMark, n.tag.epoch
			say("makes or reads the epoch: id %d", r.pair)
			return
		}
		n.tag.member = true
		n.tag.nonce++
		say("adds the key to the set")
	case readFences:
		r.pc, r.fences = readMark, s.tag.fences
		say("reads the set's fences: %02b", r.fences)
	case readMark:
		if r.pc = readFills; !x.fits(&s, r, standby) {
			n.giveBack(i)
		}
		say("HEAD once more: St %02b, Lt %d, S_b %02b; may fill: %v", s.st, s.lt, s.begun, r.pc == readFills)
	case readFills:
		filled := s.token == i+1 && s.fences&^r.value == 0 && (!s.ended || x.byTime && !x.askEnd)
		if filled {
			n.live, n.value, n.pair, n.token, n.ended, n.fences = true, r.value, r.pair, 0, false, 0
			n.reads[i] = tagRead{pc: readOver}
		} else {
			n.giveBack(i)
		}
		say("fills with what contains %02b: %v", s.reads[i].value, filled)
	}
}

// fits reports whether a load may fill as far as floors, fences and marks tell.
func (x *tagExplorer) fits(s *tagState, r *tagRead, standby bool) bool {
	if standby {
		return r.position >= r.wi && r.position >= s.lt && r.fences&^s.upTo(r.position) == 0 && (!x.epochs || r.position >= s.wi)
	}
	ok := r.si&^r.value == 0 && s.st&^r.value == 0 && r.fences&^r.value == 0
	return ok && (!x.epochs || s.begun&^r.value == 0)
}

// giveBack ends a read that does not fill.
func (s *tagState) giveBack(i uint8) {
	s.reads[i] = tagRead{pc: readOver}
	if s.token == i+1 {
		s.token, s.ended = 0, false
	}
}

// check is I2.
func (x *tagExplorer) check(s *tagState) string {
	if missing := s.upTo(s.wc) &^ s.value; x.alive(s) && missing != 0 {
		return fmt.Sprintf("I2: Wc is %d, the live value lacks %02b", s.wc, missing)
	}
	return ""
}

func exploreTags(x *tagExplorer) result {
	var initial tagState
	initial.tag.member = x.sweeps // of a value that is gone
	return search(initial, 25_000_000, func(s *tagState, naming bool, yield func(n *tagState, action, broken string)) {
		x.naming, x.yield = naming, yield
		x.steps(*s)
	}, x.check, func(*tagState) string { return "" })
}

func tagCases() [tagColumns]tagColumn {
	return [tagColumns]tagColumn{
		{name: "two writers", writers: 2},
		{name: "fences are trimmed", writers: 1, trims: true},
		{name: "and a standby is read", writers: 1, trims: true, standby: true},
		{name: "and leases end", writers: 1, trims: true, ends: true},
		{name: "and the clock steps back", writers: 1, trims: true, ends: true, stepsBack: true},
		{name: "members are swept", writers: 1, sweeps: true},
		{name: "eviction", writers: 1, evicts: true},
		{name: "the other server fails over", writers: 1, fails: true},
	}
}

func tagSchemes() []tagScheme {
	cases := []struct {
		name   string
		change func(s *tagScheme)
		fails  string // by column
	}{
		{name: "T27: sets, and a fence that is trimmed leaves no mark", change: func(s *tagScheme) { s.mark, s.markEnd = false, false }, fails: "-wwww-w-"},
		{
			name: "T27: sets, fences for as long as leases, and a FILL after that", fails: "---ww-w-",
			change: func(s *tagScheme) { s.mark, s.markEnd, s.byTime = false, false, true },
		},
		{
			name: "the same, and a FILL asks whether its lease has ended", fails: "----w-w-",
			change: func(s *tagScheme) { s.mark, s.markEnd, s.byTime, s.askEnd = false, false, true, true },
		},
		{name: "T37: sets, and no Lt", change: func(s *tagScheme) { s.markEnd = false }, fails: "--w---w-"},
		{name: "T37: sets, cleared by the first of two in a batch", change: func(s *tagScheme) { s.clears, s.script = true, true }, fails: "w-----w-"},
		{name: "T37: sets, and the sweeper looks once", change: func(s *tagScheme) { s.nonce = false }, fails: "-----ww-"},
		{name: "sets, with marks and nonces", change: func(*tagScheme) {}, fails: "------w-"},
		{name: "the same, and confirms by script", change: func(s *tagScheme) { s.script = true }, fails: "------w-"},
		{name: "the same, on another server than the value", change: func(s *tagScheme) { s.apart = true }, fails: "------ww"},
		{name: "epochs, on another server than the value", change: func(s *tagScheme) { s.epochs, s.apart = true, true }, fails: "-------w"},
		{name: "epochs, one in each lane", change: func(s *tagScheme) { s.epochs = true }, fails: "--------"},
	}
	schemes := make([]tagScheme, len(cases))
	for i, c := range cases {
		schemes[i] = tagScheme{name: c.name, mark: true, markEnd: true, nonce: true}
		c.change(&schemes[i])
		for column := range schemes[i].wantFail {
			schemes[i].wantFail[column] = c.fails[column] == 'w'
		}
	}
	return schemes
}

// TestTags looks for what member sets and epochs leave stale.
func TestTags(t *testing.T) {
	t.Parallel()
	var table strings.Builder
	total := 0
	for _, sc := range tagSchemes() {
		fmt.Fprintf(&table, "| %s |", sc.name)
		for i, c := range tagCases() {
			if deep() {
				c.writers = 2
			}
			r := exploreTags(&tagExplorer{tagScheme: sc, tagColumn: c})
			total += r.states
			verdict := fine
			if r.broken != "" {
				verdict = watermark
			}
			fmt.Fprintf(&table, " %s, %d |", verdict, r.states)
			want := sc.wantFail[i] || deep() && sc.wantFail[0] // two writers everywhere
			if (verdict != fine) != want || r.limit {
				t.Errorf("%s, %s: %q among %d states, want a violation: %v\n%s", sc.name, c.name, r.broken, r.states, want, strings.Join(r.trace, "\n"))
			} else if verdict != fine {
				t.Logf("%s, %s: %s\n  %s", sc.name, c.name, r.broken, strings.Join(r.trace, "\n  "))
			}
		}
		table.WriteString("\n")
	}
	t.Logf("verdict and number of states, %d in all:\n%s", total, table.String())
	documented, err := os.ReadFile("../docs/protocol.md")
	if err != nil {
		t.Fatal(err)
	}
	if !deep() && !strings.Contains(string(documented), "| --- |\n"+table.String()+"\n") {
		t.Errorf("docs/protocol.md does not have this table:\n%s", table.String())
	}
}
