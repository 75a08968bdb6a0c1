package soundness

import (
	"context"
	"fmt"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
)

// variant is a way to route the log: the product's, or one with a planted mistake.
type variant struct {
	name    string
	entries []*rule.Entry
	rewrite func(*change.Row) *change.Row // nil: as it is
	router  *route.Router
	keys    *route.Keys
}

// verdict is what one variant says of a transaction: the keys of each entry, and whether all of them count.
type verdict struct {
	keys  []map[string]bool
	moved []bool
}

// routed is what all variants say of a transaction.
type routed struct {
	number   string // as the transaction's own message has it
	verdicts []verdict
}

var _ change.Sink = (*routing)(nil)

// routing is a sink that lets every variant route what the log carries.
type routing struct {
	variants []*variant
	out      chan<- routed
	number   string
}

func (s *routing) Begin(context.Context, change.Begin) error {
	s.number = ""
	for _, v := range s.variants {
		v.keys.Reset()
	}
	return nil
}

func (s *routing) Row(_ context.Context, r *change.Row) error {
	for _, v := range s.variants {
		row := r
		if v.rewrite != nil {
			row = v.rewrite(r)
		}
		if row != nil {
			v.router.Row(row, v.keys)
		}
	}
	return nil
}

func (s *routing) Truncate(_ context.Context, t *change.Truncate) error {
	for _, v := range s.variants {
		v.router.Truncate(t, v.keys)
	}
	return nil
}

func (s *routing) Message(_ context.Context, m *change.Message) error {
	if m.Prefix != marker {
		return fmt.Errorf("a message of %q", m.Prefix)
	}
	s.number = string(m.Content)
	return nil
}

func (s *routing) Commit(ctx context.Context, _ change.Commit) error {
	r := routed{number: s.number}
	for _, v := range s.variants {
		one := verdict{keys: make([]map[string]bool, len(v.entries)), moved: make([]bool, len(v.entries))}
		for i := range v.entries {
			one.keys[i] = map[string]bool{}
			one.moved[i] = v.keys.Moved(i)
		}
		for n := range v.keys.Len() {
			i, key := v.keys.At(n)
			one.keys[i][string(key)] = true
		}
		r.verdicts = append(r.verdicts, one)
	}
	select {
	case s.out <- r:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func (s *routing) Idle(context.Context, change.Position) error { return nil }

// absentAsNull is a planted mistake: what the old image does not carry is taken for NULL.
func absentAsNull(r *change.Row) *change.Row {
	if r.Op == change.Insert || r.Relation.Identity == change.IdentityFull {
		return r
	}
	made := *r
	made.Old = make([]change.Value, len(r.Relation.Columns))
	for i, c := range r.Relation.Columns {
		switch {
		case !c.Key:
			made.Old[i] = change.Value{Kind: change.Null}
		case r.Old != nil:
			made.Old[i] = r.Old[i]
		default:
			made.Old[i] = r.New[i]
		}
	}
	return &made
}

// forgetOld is a planted mistake: only the new image of a row is looked at.
func forgetOld(r *change.Row) *change.Row {
	if r.New == nil {
		return nil
	}
	return &change.Row{Op: change.Insert, Relation: r.Relation, New: r.New}
}
