package spec

import (
	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/mvcc"
)

// session starts a read of a session, which has just read another key as well: from the primary, or from the store a value
// that came from a standby. Every transaction affects that key too.
func (q *reading) session() {
	if q.r.seen {
		n, m := q.to(readerVouch)
		q.emit(n, "", "a session that saw %03b reads on", m.saw)
	}
	h := q.at()
	same := h.found && h.gen == q.r.gen && h.rev == q.r.rev
	old := reader{headWc: h.wc, headSa: h.sa, saw: q.r.saw, seen: q.r.seen} // an old value of a key that nobody writes
	if q.r.seen && same && q.without.merges && q.follows(&old) {
		n, m := q.to(readerVouch)
		q.sees(m, 0, 0)
		q.emit(n, "", "a session sees a value of a key that nobody writes, and has seen %03b", m.saw)
	}
	n, m := q.to(readerVouch)
	q.sees(m, q.s.visible, q.s.visible)
	q.emit(n, "", "a session sees %03b in another key's row, from the primary", q.s.visible)
	if !q.standby() || !same {
		return
	}
	for position := range q.s.replayed + 1 {
		other := reader{replay: position + 1, headWc: h.wc, headSa: h.sa, saw: q.r.saw, seen: q.r.seen}
		if !q.follows(&other) {
			continue
		}
		n, m := q.to(readerVouch)
		q.sees(m, h.si, q.s.upTo(position))
		q.emit(n, "", "a session sees %03b in another key's value, from a standby at %d, and has seen %03b", q.s.upTo(position), position, m.saw)
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
