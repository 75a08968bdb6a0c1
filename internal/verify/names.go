package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
)

// names are those of a roster that is or was in force.
type names struct {
	generation string
	lanes      []string // the generations of a cluster's lanes
	revision   uint64
	entries    map[string]*live
	prefixes   map[string]*live // by all of a name up to its key
}

// live is an entry, how its keys are spelled, and what its values are compared with. It has no more than the entry when it
// is suspended.
type live struct {
	entry    *rule.Entry
	template *rule.Template
	sql      string // empty: nothing
	used     []int  // the places of the statement's parameters in the key, where they are not those of the key
	shape    *shape // of a value that code loaded
}

func (n *names) inForce(h *fence.Head) bool {
	return n != nil && n.generation == h.Generation && n.revision == h.Revision && slices.Equal(n.lanes, lanesOf(h))
}

// lanesOf are the generations of lanes whose HEADs are in force; of others there is none, and readers use none of their names.
func lanesOf(h *fence.Head) []string {
	var lanes []string
	for i := range h.Lanes {
		own := ""
		if h.Lanes[i].Revision == h.Revision {
			own = h.Lanes[i].Lane
		}
		lanes = append(lanes, own)
	}
	return lanes
}

func newNames(namespace string, r *rule.Roster, lanes []string, queries map[string]Query) (*names, error) {
	n := &names{generation: r.Generation, lanes: lanes, revision: r.Revision, entries: map[string]*live{}, prefixes: map[string]*live{}}
	versions := slices.Clone(r.Retained)
	for name, e := range r.Entries {
		n.entries[name] = &live{entry: e}
		versions = append(versions, e)
	}
	for _, e := range versions {
		if e.Suspended != "" {
			continue
		}
		l := &live{entry: e, sql: e.SQL}
		if e.Declared != nil && e.Declared.DependsOnTime {
			l.sql = "" // what is cached was true when it was loaded, and need not be true now
		}
		var err error
		if l.template, err = rule.ParseTemplate(e.Key); err != nil {
			return nil, fmt.Errorf("entry %s of the roster: %w", e.Name, err)
		}
		if q, given := queries[e.Name]; given {
			if err := l.compareWith(&q); err != nil {
				return nil, fmt.Errorf("entry %s: %w", e.Name, err)
			}
		}
		for lane, prefix := range fence.LanePrefixes(namespace, r.Generation, lanes, rule.KeyTail(e)) {
			if len(lanes) == 0 || lanes[lane] != "" {
				n.prefixes[prefix] = l
			}
		}
	}
	return n, nil
}

// compareWith has the values that code loaded compared with a query.
func (l *live) compareWith(q *Query) (err error) {
	if l.sql != "" {
		return fmt.Errorf("%w: the entry has one of its own", ErrQuery)
	}
	if l.sql, l.used, err = numbered(q.SQL, l.template.Params()); err != nil {
		return err
	}
	l.shape = &shape{format: JSON, field: q.Field, ignore: q.Ignore, bag: l.entry.Result == rule.Many && !ordered(l.sql)}
	return nil
}

// have reports whether the roster has a version of the entry.
func (n *names) have(entry string) bool {
	if n.entries[entry] != nil {
		return true
	}
	for _, l := range n.prefixes {
		if l.entry.Name == entry {
			return true
		}
	}
	return false
}

// find returns the live entry that a name belongs to, and the name's key; nil when readers would not use the name.
func (n *names) find(name string) (l *live, key string) {
	// f:<namespace>:<generation>:<entry>.<version>.<activation>:<key>; there is no colon in a part but the key. A lane's tag is
	// another part.
	parts := 4
	if len(n.lanes) > 0 {
		parts++
	}
	end := 0
	for range parts {
		i := strings.IndexByte(name[end:], ':')
		if i < 0 {
			return nil, ""
		}
		end += i + 1
	}
	if l = n.prefixes[name[:end]]; l == nil {
		return nil, ""
	}
	return l, name[end:]
}

// arguments reads a key's arguments back. It refuses one that no reader would ask for, since its arguments are not in
// canonical form.
func (l *live) arguments(key string) ([]keytext.Arg, bool) {
	args, ok := l.template.Parse(key)
	if !ok || len(args) != len(l.entry.Params) {
		return nil, false
	}
	for i, a := range args {
		if a.Null {
			continue
		}
		if text, err := keytext.Canonical(l.entry.Params[i].Type, a.Text); err != nil || text != a.Text {
			return nil, false
		}
	}
	return args, true
}

// look reads HEAD, and the roster when HEAD names another one than is known. inForce is false while there is none, or
// while the roster is not the one that HEAD names.
func (v *verifier) look(ctx context.Context) (h fence.Head, inForce bool, err error) {
	h, found, err := v.Store.Head(ctx)
	if errors.Is(err, store.ErrSplit) {
		return h, false, nil
	}
	if err != nil || !found {
		return h, false, err
	}
	if v.names.inForce(&h) {
		return h, true, nil
	}
	text, found, err := v.Store.Roster(ctx)
	if err != nil || !found {
		return h, false, err
	}
	roster, err := rule.ParseRoster(text)
	if err != nil {
		return h, false, err
	}
	if roster.Generation != h.Generation || roster.Revision != h.Revision {
		return h, false, nil
	}
	if v.names, err = newNames(v.Namespace, roster, lanesOf(&h), v.Queries); err != nil {
		return h, false, err
	}
	return h, true, nil
}

// inForce waits until a roster is in force. While there is none, readers go to the database, and there is nothing to
// compare; but what is skipped then could be live again a moment later.
func (v *verifier) inForce(ctx context.Context) (fence.Head, error) {
	deadline := time.Now().Add(v.Wait)
	for {
		h, inForce, err := v.look(ctx)
		switch {
		case err != nil, inForce:
			return h, err
		case time.Now().After(deadline):
			return h, ErrNoStore
		}
		if err := sleep(ctx, pause); err != nil {
			return h, err
		}
	}
}

// wanted reports whether the entry is to be looked at.
func (v *verifier) wanted(l *live) bool {
	return len(v.Entries) == 0 || slices.Contains(v.Entries, l.entry.Name)
}
