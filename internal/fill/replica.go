package fill

import (
	"context"
	"log/slog"
	"sync/atomic"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// Replica is a standby that loads may go to.
type Replica interface {
	Load(ctx context.Context, sql string, result rule.Result, args []keytext.Arg) (pgload.Loaded, error)
	LoadTagged(ctx context.Context, q pgload.Query, args []keytext.Arg) (pgload.Loaded, error)
	LoadFunc(ctx context.Context, load LoadFunc, enough func(*pgload.Loaded) bool) (pgload.Loaded, error)
}

const (
	// replicaShare is the part of a load timeout that a standby may take; the rest is the primary's.
	replicaShare = 4
	// knownFor is how long a standby that was seen behind is taken to be there still.
	knownFor = 50 * time.Millisecond
	// A standby that failed, or that is none of this database, is left alone, each time for twice as long.
	firstLeave, longestLeave = 250 * time.Millisecond, 15 * time.Second
)

// standby is a Replica and what is known of it.
type standby struct {
	replica  Replica
	number   int
	replayed atomic.Uint64 // how far it had come when it last answered
	seen     atomic.Int64  // when that was, a time of store.Awake; 0: it has not
	away     atomic.Int64  // it is left alone until then, a time of store.Awake
	leave    atomic.Int64  // and was for so long
}

// requirement is what a load must cover: everything that the key's bucket was ever confirmed for, and the fences.
type requirement struct {
	head   *fence.Head // of the key's bucket, as read after the grant
	fences []fence.Stamp
	names  *confirmation // that say of which database values are
}

func (q *requirement) position() mvcc.LSN {
	end := q.head.Wi
	for _, x := range q.fences {
		end = max(end, x.End)
	}
	return end
}

// met reports whether the rules allow a load to be stored, as far as the lease's answer tells (R4, R5).
func (q *requirement) met(l *pgload.Loaded) bool {
	if !fence.Floor(*q.head, l.Coverage) {
		return false
	}
	for _, x := range q.fences {
		if !l.Coverage.Covers(x) {
			return false
		}
	}
	return true
}

// replicaOutcome is what became of a load that a standby might have had.
type replicaOutcome int

const (
	_                 replicaOutcome = iota
	replicaUsed                      // its row was taken
	replicaKnown                     // not asked: it was seen behind what the key needs an instant ago
	replicaAway                      // not asked: it failed lately
	replicaBehind                    // it had not replayed what the key needs
	replicaFailed                    // no answer, or none in time
	replicaForeign                   // not a standby of the database that is followed, or not of its timeline
	replicaRefused                   // the row may not be stored for another reason
	replicaUnfollowed                // not asked: nothing shows that a daemon follows
	replicaOutcomes
)

// String is the outcome as metrics spell it.
func (o replicaOutcome) String() string {
	switch o {
	case replicaUsed:
		return "used"
	case replicaKnown:
		return "known_behind"
	case replicaAway:
		return "left_alone"
	case replicaBehind:
		return "behind"
	case replicaFailed:
		return "failed"
	case replicaForeign:
		return "foreign"
	case replicaRefused:
		return "refused"
	case replicaUnfollowed:
		return "unfollowed"
	default:
		return "none"
	}
}

// fromReplica loads from a standby, if there is one that can be recent enough. Only a row that the rules allow to be
// stored is taken: any other is nobody's, and the load goes to the primary.
func (r *Reader) fromReplica(ctx context.Context, w *want, reply *store.LeaseReply) (loaded pgload.Loaded, ok bool) {
	if len(r.standbys) == 0 || !reply.HeadFound {
		return pgload.Loaded{}, false
	}
	if !r.isFollowed(ctx, r.laneOf(w.name), &reply.Head) {
		r.stats.replicas[replicaUnfollowed].Add(1)
		return pgload.Loaded{}, false
	}
	sql := ""
	if w.load == nil {
		var err error
		if sql, err = w.e.sql(w.l); err != nil {
			return pgload.Loaded{}, false // the primary's load says so
		}
	}
	need := requirement{head: &reply.Head, fences: reply.Record.Fences, names: w.c}
	s, outcome := r.choose(need.position())
	if s == nil {
		r.stats.replicas[outcome].Add(1)
		return pgload.Loaded{}, false
	}
	limited, cancel := context.WithTimeout(ctx, w.e.LoadTimeout/replicaShare)
	defer cancel()
	var err error
	switch tags := w.tags(); {
	case w.load != nil:
		loaded, err = w.byCode(func(load LoadFunc) (pgload.Loaded, error) {
			return s.replica.LoadFunc(limited, guarded(load), need.met)
		})
	case len(tags) > 0:
		loaded, err = s.replica.LoadTagged(limited, pgload.Query{SQL: sql, Result: w.e.Declared.Result, Tags: tags}, w.args)
	default:
		loaded, err = s.replica.Load(limited, sql, w.e.Declared.Result, w.args)
	}
	outcome = s.judge(&need, &loaded, err)
	if outcome == replicaUsed && loaded.Coverage.Standby() {
		// What ended an epoch raised the floor of its bucket, which the lease's answer does not tell.
		if _, why := r.pin(limited, w, &loaded); why != 0 {
			outcome = replicaBehind
		}
	}
	r.stats.replicas[outcome].Add(1)
	r.hear(ctx, s, outcome, &loaded, err)
	return loaded, outcome == replicaUsed
}

// hear has a standby left alone for a while that did not answer, or is none of this database.
func (r *Reader) hear(ctx context.Context, s *standby, outcome replicaOutcome, loaded *pgload.Loaded, err error) {
	switch outcome {
	case replicaFailed, replicaForeign:
		if ctx.Err() == nil && s.leaveAlone() {
			r.logger.WarnContext(ctx, "a replica is left alone for a while", slog.Int("replica", s.number),
				slog.String("outcome", outcome.String()), slog.Any("err", err), slog.String("system", loaded.Server.System),
				slog.Uint64("timeline", uint64(loaded.Server.Timeline)), slog.String("database", loaded.Database.String()))
		}
	default:
		s.leave.Store(0)
	}
}

// isFollowed reports whether a daemon applies what is committed, not long after it is: what HEAD had confirmed then is in its floors, so that
// a standby's row which passes them misses nothing older. For a process that has not asked the store for a count lately, nothing shows it.
func (r *Reader) isFollowed(ctx context.Context, lane int, head *fence.Head) bool {
	if r.followed < 0 {
		return true
	}
	r.count(ctx, lane)
	return r.ticks[lane].prove(head.Tick, r.clock(), r.followed)
}

// choose takes the standbys in turn. It passes over those that failed lately, and those that were seen behind the
// position just now.
func (r *Reader) choose(position mvcc.LSN) (*standby, replicaOutcome) {
	outcome := replicaAway
	now := int64(store.Awake())
	all := uint64(len(r.standbys))
	first := r.turn.Add(1)
	for i := range all {
		s := r.standbys[(first+i)%all]
		switch {
		case s.away.Load() > now:
		case s.seen.Load() != 0 && s.seen.Load() > now-int64(knownFor) && mvcc.LSN(s.replayed.Load()) < position:
			outcome = replicaKnown
		default:
			return s, 0
		}
	}
	return nil, outcome
}

// judge says what the answer of a standby is good for.
func (s *standby) judge(need *requirement, loaded *pgload.Loaded, err error) replicaOutcome {
	if err != nil {
		return replicaFailed
	}
	if loaded.Coverage.Standby() {
		s.replayed.Store(uint64(loaded.Coverage.Replay))
		s.seen.Store(int64(store.Awake()))
	}
	switch {
	case loaded.Server.System != need.head.System || loaded.Server.Timeline != need.head.Timeline || need.names.elsewhere(loaded.Database):
		return replicaForeign
	case loaded.Refuse != "":
		return replicaRefused
	case !need.met(loaded):
		return replicaBehind
	}
	return replicaUsed
}

// leaveAlone reports whether the standby was not left alone before.
func (s *standby) leaveAlone() (first bool) {
	before := s.leave.Load()
	next := min(max(2*before, int64(firstLeave)), int64(longestLeave))
	s.leave.Store(next)
	s.away.Store(int64(store.Awake()) + next)
	return before == 0
}
