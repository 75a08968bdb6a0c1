package spec

import (
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// session starts a read of a session, which has just read another key as well: from the primary, or from the store a value
// that came from a standby. Every transaction affects that key too.
func (x *explorer) session(s *state, i int, to goOn, emit emit) {
	r := &s.readers[i]
	if r.seen {
		n, m := to(readerVouch)
		emit(n, "", "a session that saw %03b reads on", m.saw)
	}
	h := s.at(i)
	same := h.found && h.gen == r.gen && h.rev == r.rev
	old := reader{headWc: h.wc, headSa: h.sa, saw: r.saw, seen: r.seen} // an old value of a key that nobody writes
	if r.seen && same && x.without.merges && x.follows(&old) {
		n, m := to(readerVouch)
		x.sees(m, 0, 0)
		emit(n, "", "a session sees a value of a key that nobody writes, and has seen %03b", m.saw)
	}
	n, m := to(readerVouch)
	x.sees(m, s.visible, s.visible)
	emit(n, "", "a session sees %03b in another key's row, from the primary", s.visible)
	if !x.standby() || !same {
		return
	}
	for position := range s.replayed + 1 {
		other := reader{replay: position + 1, headWc: h.wc, headSa: h.sa, saw: r.saw, seen: r.seen}
		if !x.follows(&other) {
			continue
		}
		n, m := to(readerVouch)
		x.sees(m, h.si, s.upTo(position))
		emit(n, "", "a session sees %03b in another key's value, from a standby at %d, and has seen %03b", s.upTo(position), position, m.saw)
	}
}

// sees merges what a read claims to have seen, and what it has.
func (x *explorer) sees(m *reader, claim, truth set) {
	if m.saw |= claim; x.without.merges {
		m.saw = claim
	}
	m.seen = true
	m.must |= truth
}

// remembers adds a value that was served. Of one from a standby it is what was confirmed that is known to be seen.
func (x *explorer) remembers(m, served *reader) {
	claim := served.claim
	if served.replay != 0 {
		claim = served.headSi
	}
	x.sees(m, claim, served.cov)
}

// follows reports whether a value is at least as new as all that a session has seen. Positions are one higher.
func (x *explorer) follows(m *reader) bool {
	h := fence.Head{Wc: mvcc.LSN(m.headWc) + 1, Sa: x.horizon(m.headSa)}
	if x.without.passed {
		h.Wc = mvcc.LSN(maxTxs) + 1
	}
	seen := mvcc.Snapshot{}
	if m.seen {
		seen = x.snapshots[m.saw]
	}
	return fence.Follows(&h, x.coverage(m.claim, m.replay), seen)
}
