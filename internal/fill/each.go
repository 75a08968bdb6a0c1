package fill

import (
	"context"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
)

// Batches is what a Store does about many records in one round trip. One that does not is asked record by record.
type Batches interface {
	ReadMany(ctx context.Context, all []store.Reading, head bool) []store.Found
	LeaseMany(ctx context.Context, all []store.Leasing) []store.Leased
	PinMany(ctx context.Context, all [][]string, life time.Duration) []store.PinnedMany
	FillMany(ctx context.Context, all []store.Filling) []store.Filled
	ReleaseMany(ctx context.Context, names []string, tokens []fence.Token) error
}

// ManyLoader is a Loader that loads many keys by one statement, or by some that are sent together.
type ManyLoader interface {
	LoadMany(ctx context.Context, q pgload.Query, keys [][]keytext.Arg) pgload.Many
}

// ManyReplica is a Replica that does. Its error is that of all keys.
type ManyReplica interface {
	LoadMany(ctx context.Context, q pgload.Query, keys [][]keytext.Arg) ([]pgload.Loaded, error)
}

func batchesOf(s Store) Batches {
	if b, ok := s.(Batches); ok {
		return b
	}
	return eachRecord{s}
}

func manyOf(l Loader) ManyLoader {
	if m, ok := l.(ManyLoader); ok {
		return m
	}
	return eachLoad{l}
}

// eachRecord asks for one record after the other.
type eachRecord struct{ Store }

func (s eachRecord) ReadMany(ctx context.Context, all []store.Reading, head bool) []store.Found {
	found := make([]store.Found, len(all))
	for i := range all {
		f, r := &found[i], &all[i]
		switch {
		case head:
			f.Head, f.HeadFound, f.Tied, f.Err = s.ReadWithHead(ctx, r.Name, r.Epochs)
		case len(r.Epochs) > 0:
			f.Tied, f.Err = s.ReadTied(ctx, r.Name, r.Epochs)
		default:
			f.Text, f.Err = s.Read(ctx, r.Name)
		}
	}
	return found
}

func (s eachRecord) LeaseMany(ctx context.Context, all []store.Leasing) []store.Leased {
	leased := make([]store.Leased, len(all))
	for i := range all {
		l := &all[i]
		if l.Dead == "" {
			leased[i].LeaseReply, leased[i].Err = s.Lease(ctx, l.Name, l.Token, l.Lasts)
		} else {
			leased[i].LeaseReply, leased[i].Err = s.LeaseOver(ctx, l.Name, l.Dead, l.Token, l.Lasts)
		}
	}
	return leased
}

func (s eachRecord) PinMany(ctx context.Context, all [][]string, life time.Duration) []store.PinnedMany {
	pinned := make([]store.PinnedMany, len(all))
	for i := range all {
		pinned[i].Pinned, pinned[i].Err = s.Pin(ctx, all[i], life)
	}
	return pinned
}

func (s eachRecord) FillMany(ctx context.Context, all []store.Filling) []store.Filled {
	filled := make([]store.Filled, len(all))
	for i := range all {
		filled[i].Outcome, filled[i].Err = s.Fill(ctx, all[i].Name, all[i].FillRequest)
	}
	return filled
}

func (s eachRecord) ReleaseMany(ctx context.Context, names []string, tokens []fence.Token) (first error) {
	for i := range names {
		if err := s.Release(ctx, names[i], tokens[i]); err != nil && first == nil {
			first = err
		}
	}
	return first
}

// eachLoad loads one key after the other.
type eachLoad struct{ Loader }

func (l eachLoad) LoadMany(ctx context.Context, q pgload.Query, keys [][]keytext.Arg) pgload.Many {
	m := pgload.Many{Ones: make([]pgload.One, len(keys)), Statements: len(keys)}
	for i, args := range keys {
		one := &m.Ones[i]
		if len(q.Tags) > 0 {
			one.Loaded, one.Err = l.LoadTagged(ctx, q, args)
		} else {
			one.Loaded, one.Err = l.Load(ctx, q.SQL, q.Result, args)
		}
	}
	return m
}
