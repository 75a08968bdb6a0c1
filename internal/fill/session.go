package fill

import (
	"cmp"
	"slices"
	"sync"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/mvcc"
)

// Session makes reads monotonic over all keys, and has them contain what was written: it is the snapshot that sees all
// that its reads have seen, and the tokens that it was told of. It may be used from any number of goroutines; a read
// follows those that had returned when it began. Its size is bounded.
type Session struct {
	mu      sync.Mutex
	server  pgload.Server // whom seen is of
	seen    mvcc.Snapshot
	tokens  []mvcc.Token // of transactions that seen does not see, of one cluster
	span    span         // in the place of tokens that are too many
	foreign mvcc.Token   // one of another, which no read can contain
}

// span stands for the tokens of transactions whose ids are from first to last, and for whatever else is between: more than was
// observed, and never less. What is below first is none of them: a transaction that is open for long, and began before, keeps
// no read waiting.
type span struct {
	server      pgload.Server
	first, last mvcc.XID // zero: none
}

func (s *span) seenUnder(server pgload.Server, snapshot mvcc.Snapshot) bool {
	return s.server.System == server.System && s.server.Timeline <= server.Timeline && fence.SeesAll(snapshot, s.first, s.last)
}

// maxTokens is how many tokens a session holds.
const maxTokens = 128

// Observe has later reads contain the transaction that the token names.
func (s *Session) Observe(t mvcc.Token) {
	s.mu.Lock()
	defer s.mu.Unlock()
	system := cmp.Or(s.server.System, s.span.server.System)
	if len(s.tokens) > 0 {
		system = s.tokens[0].System
	}
	switch {
	case t.IsZero(), slices.Contains(s.tokens, t), s.sees(t):
	case system != "" && t.System != system:
		s.foreign = t
	default:
		if s.tokens = append(s.tokens, t); len(s.tokens) > maxTokens {
			s.round()
		}
	}
}

// sees reports whether what was seen contains the token's transaction.
func (s *Session) sees(t mvcc.Token) bool {
	return t.System == s.server.System && t.Timeline <= s.server.Timeline && s.seen.Sees(t.XID)
}

// round puts the older half of the tokens into the span.
func (s *Session) round() {
	slices.SortFunc(s.tokens, func(a, b mvcc.Token) int { return cmp.Compare(a.XID, b.XID) })
	low := s.tokens[:len(s.tokens)/2]
	if s.span.last == 0 {
		s.span.first = low[0].XID
	}
	s.span.first, s.span.last = min(s.span.first, low[0].XID), max(s.span.last, low[len(low)-1].XID)
	for _, t := range low {
		s.span.server.System, s.span.server.Timeline = t.System, max(s.span.server.Timeline, t.Timeline)
	}
	s.tokens = slices.Clone(s.tokens[len(low):])
}

// ask adds what the session has seen to a need.
func (s *Session) ask(n *need) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n.seen, n.server, n.span = s.seen, s.server, s.span
	if len(s.tokens) > 0 {
		n.tokens = slices.Concat(n.tokens, s.tokens)
	}
	if !s.foreign.IsZero() {
		n.tokens = append(slices.Clip(n.tokens), s.foreign)
	}
}

// saw merges what a read has returned: what a value covers, or, of one from a standby, what the store had confirmed.
func (s *Session) saw(server pgload.Server, snapshot mvcc.Snapshot) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.seen.IsZero():
		s.server = server
	case s.server.System != server.System || server.Timeline < s.server.Timeline:
		return // of a read that began before the database failed over
	}
	s.server.Timeline = server.Timeline
	s.seen = fence.Grow(s.seen, snapshot)
	s.tokens = slices.DeleteFunc(s.tokens, s.sees)
	if s.span.seenUnder(s.server, s.seen) {
		s.span = span{}
	}
}
