package fill

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"strings"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

// compareRowsFrom is the size from which on a value is compared by the stored versions of its rows. Below it, making the value
// costs the server no more than that (docs/performance.md).
const compareRowsFrom = 4 << 10

// kept is the live value in the answer to a LEASE: what a conditional read compares the database's value with. Where the
// lease was granted the two are one thing from then on (fence.Renew).
type kept struct {
	record fence.Record
	digest pgload.Digest // of a row; "no such row" has none
	head   fence.Head    // as read after the LEASE, if it is of the generation that the value is of; otherwise zero
}

// keeps is the live value in a LEASE's answer, where the read that asked is a conditional one; or nil.
func (n *need) keeps(c *confirmation, reply *store.LeaseReply) *kept {
	if n == nil || !n.compares || !reply.Record.State.Live() {
		return nil
	}
	k := &kept{record: reply.Record}
	if reply.HeadFound && reply.Head.Generation == c.names.generation {
		k.head = reply.Head
	}
	if k.record.State == fence.Live {
		k.digest = pgload.DigestOf(k.record.Payload)
	}
	return k
}

// compare is ask, where there is a value already. What it returns has the payload in any case; Same says that it is the kept
// one, and then the database has not sent it. Everything else that is said of a load is said of this one too.
func (r *Reader) compare(ctx context.Context, w *want) (pgload.Loaded, error) {
	if w.over == nil {
		return r.ask(ctx, w)
	}
	r.stats.revalidations.Add(1)
	loaded, err := r.loadChanged(ctx, w)
	if err != nil {
		return pgload.Loaded{}, err
	}
	if loaded.Same != pgload.Different {
		r.stats.unchanged.Add(1)
		loaded.Payload = w.over.record.Payload
	}
	return loaded, nil
}

func (r *Reader) loadChanged(ctx context.Context, w *want) (pgload.Loaded, error) {
	k := w.over
	if w.load == nil && k.record.State == fence.Live {
		sql, err := w.e.sql(w.l)
		if err != nil {
			return pgload.Loaded{}, err
		}
		q := pgload.Query{SQL: sql, Result: w.e.Declared.Result, Version: k.versionOf(w.l), Tags: w.tags()}
		loaded, err := r.loader.LoadChanged(ctx, q, w.args, k.known(q.Version))
		var refused *pgload.QueryError
		if !errors.As(err, &refused) && (err != nil || loaded.Same != pgload.SameVersion || k.believes(&loaded)) {
			return loaded, err
		}
		// A read that can be answered does not fail for want of a comparison.
		if refused != nil && q.Version != nil && strings.HasPrefix(refused.Code, unusable) && w.l.unversioned.CompareAndSwap(false, true) {
			r.logger.WarnContext(ctx, "conditional reads compare digests: the database refuses the query with row versions",
				slog.String("entry", w.e.name), slog.String("error", refused.Error()))
		}
		r.stats.loads.Add(1)
	}
	loaded, err := r.ask(ctx, w)
	if err == nil && k.equals(&loaded) {
		loaded.Same = pgload.SameDigest
	}
	return loaded, err
}

// equals reports whether what was loaded is the kept value.
func (k *kept) equals(loaded *pgload.Loaded) bool {
	return loaded.Found == (k.record.State == fence.Live) && bytes.Equal(loaded.Payload, k.record.Payload)
}

// unusable is the class of SQLSTATEs that say that a statement cannot be run as it is: a name that is not there, a privilege
// that is missing.
const unusable = "42"

// versionOf is the row version that is worth asking for: a declared one always, a stored one of a large value.
func (k *kept) versionOf(l *live) *rule.RowVersion {
	if l == nil || l.entry.RowVersion == nil || l.unversioned.Load() || l.entry.RowVersion.Physical() && len(k.record.Payload) < compareRowsFrom {
		return nil
	}
	return l.entry.RowVersion
}

// known is what the database is told of the kept value. Transactions below the horizon are over, are contained in the value,
// and are in the log on disk, as whatever is confirmed is: no crash can take them back and give their ids out again. Without all
// that, stored row versions prove nothing. A HEAD of another generation knows nothing of it: that generation may be the answer
// to a crash.
func (k *kept) known(v *rule.RowVersion) pgload.Known {
	known := pgload.Known{Digest: k.digest, Version: k.record.RowVersion}
	if v == nil || !v.Physical() {
		return known
	}
	seen, onDisk := k.record.Coverage.Snapshot, k.head.Sa
	if seen.IsZero() || onDisk.IsZero() {
		return pgload.Known{Digest: k.digest}
	}
	known.Horizon = min(seen.Xmin, onDisk.Xmin)
	return known
}

// believes reports whether a row version that is the same means the same value: it was found on the primary whose log HEAD
// is of, later than the value was.
func (k *kept) believes(loaded *pgload.Loaded) bool {
	return loaded.Refuse == "" && loaded.Server == (pgload.Server{System: k.head.System, Timeline: k.head.Timeline}) &&
		loaded.Coverage.Dominates(k.record.Coverage)
}

// write stores a load (R5): by RENEW where it is what is stored already. When that is gone meanwhile, as what does not contain
// a change goes upon its EARLY or CONFIRM, the lease is still there, and the load may contain the change.
func (r *Reader) write(ctx context.Context, name string, f store.FillRequest, same bool) (fence.FillOutcome, error) {
	if !same {
		return r.store.Fill(ctx, name, f)
	}
	outcome, err := r.store.Renew(ctx, name, store.RenewRequest{
		Token: f.Token, Coverage: f.Coverage, RowVersion: f.RowVersion, Keep: f.Keep, Epochs: f.Epochs, TTL: f.TTL,
	})
	switch {
	case err != nil:
		return 0, err
	case outcome == fence.NoValue:
		return r.store.Fill(ctx, name, f)
	case outcome == fence.Renewed:
		r.stats.renewals.Add(1)
		return fence.Filled, nil
	}
	return outcome, nil
}

// revalidates reports whether a read with a demand asks for another value than the cached one only.
func (e *declared) revalidates(d *Demand) bool { return !d.Reload && (d.Revalidate || !e.LoadUnproved) }
