package route_test

import (
	"fmt"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
)

func text(s string) change.Value { return change.Value{Kind: change.Text, Text: []byte(s)} }

func null() change.Value { return change.Value{Kind: change.Null} }

func unchanged() change.Value { return change.Value{Kind: change.Unchanged} }

func absent() change.Value { return change.Value{} }

func product(rules ...rule.Rule) *rule.Entry {
	for i := range rules {
		if rules[i].Table == "" {
			rules[i].Schema, rules[i].Table = "public", "products"
		}
	}
	return &rule.Entry{
		Name: "product", Key: "product:{id}",
		Params: []rule.Param{{Name: "id", Type: keytext.Int8}}, Rules: rules,
	}
}

func products(identity change.Identity, keys ...string) *change.Relation {
	r := &change.Relation{OID: 16384, Schema: "public", Name: "products", Identity: identity}
	for _, name := range []string{"id", "name", "deleted_at"} {
		r.Columns = append(r.Columns, change.Column{Name: name, TypeOID: 20, Key: slices.Contains(keys, name) || identity == change.IdentityFull})
	}
	return r
}

func collect(out *route.Keys) (keys, moves []string) {
	for i := range out.Len() {
		entry, key := out.At(i)
		keys = append(keys, fmt.Sprintf("%d %s", entry, key))
	}
	for _, m := range out.Moves() {
		moves = append(moves, fmt.Sprintf("%d %s", m.Entry, m.Cause))
	}
	return keys, moves
}

func TestRow(t *testing.T) {
	t.Parallel()
	byID := rule.Rule{Bind: []string{"id"}, Columns: []string{"id", "name"}}
	byName := rule.Rule{Bind: []string{"name"}}
	alive := rule.Rule{Bind: []string{"id"}, Where: []rule.Condition{{Column: "deleted_at", Op: rule.IsNull}}}
	pk := products(change.IdentityDefault, "id")
	full := products(change.IdentityFull)
	tests := []struct {
		name  string
		rules []rule.Rule
		row   change.Row
		keys  []string
		moves []string
	}{
		{
			name: "insert", rules: []rule.Rule{byID},
			row:  change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			keys: []string{"0 product:7"},
		},
		{
			name: "delete by its key", rules: []rule.Rule{byID},
			row:  change.Row{Op: change.Delete, Relation: pk, Old: []change.Value{text("7"), absent(), absent()}},
			keys: []string{"0 product:7"},
		},
		{
			name: "update without old image", rules: []rule.Rule{byID},
			row:  change.Row{Op: change.Update, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			keys: []string{"0 product:7"},
		},
		{
			name: "key changed", rules: []rule.Rule{byID},
			row: change.Row{
				Op: change.Update, Relation: pk,
				Old: []change.Value{text("7"), absent(), absent()}, New: []change.Value{text("8"), text("a"), null()},
			},
			keys: []string{"0 product:7", "0 product:8"},
		},
		{
			name: "old value of a bound column is not in the log", rules: []rule.Rule{byName},
			row:   change.Row{Op: change.Update, Relation: pk, New: []change.Value{text("7"), text("3"), null()}},
			keys:  []string{"0 product:3"},
			moves: []string{`0 UPDATE of public.products: the log does not carry the value of column name (replica identity 'd')`},
		},
		{
			name: "absent is not NULL", rules: []rule.Rule{byName},
			row:   change.Row{Op: change.Delete, Relation: pk, Old: []change.Value{text("7"), absent(), absent()}},
			moves: []string{`0 DELETE of public.products: the log does not carry the value of column name (replica identity 'd')`},
		},
		{
			name: "NULL has no key", rules: []rule.Rule{byName},
			row: change.Row{Op: change.Delete, Relation: full, Old: []change.Value{text("7"), null(), null()}},
		},
		{
			name: "unchanged large value that is nowhere", rules: []rule.Rule{byName},
			row:   change.Row{Op: change.Update, Relation: pk, New: []change.Value{text("7"), unchanged(), null()}},
			moves: []string{`0 UPDATE of public.products: the log does not carry the value of column name (replica identity 'd')`},
		},
		{
			name: "unchanged large value from the old image", rules: []rule.Rule{byName},
			row: change.Row{
				Op: change.Update, Relation: full,
				Old: []change.Value{text("7"), text("5"), null()}, New: []change.Value{text("8"), unchanged(), null()},
			},
			keys: []string{"0 product:5"},
		},
		{
			name: "no relevant column changed", rules: []rule.Rule{byID},
			row: change.Row{
				Op: change.Update, Relation: full,
				Old: []change.Value{text("7"), text("a"), null()}, New: []change.Value{text("7"), unchanged(), text("x")},
			},
		},
		{
			name: "dead before and after", rules: []rule.Rule{alive},
			row: change.Row{
				Op: change.Update, Relation: full,
				Old: []change.Value{text("7"), text("a"), text("x")}, New: []change.Value{text("7"), text("b"), text("y")},
			},
		},
		{
			name: "dies: the old image matters", rules: []rule.Rule{alive},
			row: change.Row{
				Op: change.Update, Relation: full,
				Old: []change.Value{text("7"), text("a"), null()}, New: []change.Value{text("8"), text("a"), text("y")},
			},
			keys: []string{"0 product:7"},
		},
		{
			name: "predicate on a value that the log lacks", rules: []rule.Rule{alive},
			row:  change.Row{Op: change.Update, Relation: pk, New: []change.Value{text("7"), text("a"), text("y")}},
			keys: []string{"0 product:7"},
		},
		{
			name: "value without canonical text", rules: []rule.Rule{byName},
			row:   change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			moves: []string{`0 column name of public.products: int8 "a": not an integer`},
		},
		{
			name: "bound column is gone", rules: []rule.Rule{{Bind: []string{"owner"}}},
			row:   change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			moves: []string{"0 the log does not carry column owner of public.products"},
		},
		{
			name: "rule that does not fit its key", rules: []rule.Rule{{Bind: []string{"id", "name"}}},
			row:   change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			moves: []string{"0 the rule binds 2 columns, the key has 1 parameters"},
		},
		{
			name: "an argument that the rule has", rules: []rule.Rule{{Bind: []string{""}, Fixed: []*keytext.Arg{{Text: "5"}}, Where: alive.Where}},
			row:  change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			keys: []string{"0 product:5"},
		},
		{
			name: "NULL is an argument, too", rules: []rule.Rule{{Bind: []string{""}, Fixed: []*keytext.Arg{{Null: true}}}},
			row:  change.Row{Op: change.Delete, Relation: pk, Old: []change.Value{text("7"), absent(), absent()}},
			keys: []string{"0 product:%-"},
		},
		{
			name: "more arguments than parameters", rules: []rule.Rule{{Bind: []string{"id"}, Fixed: make([]*keytext.Arg, 2)}},
			row:   change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			moves: []string{"0 the rule binds 1 columns, the key has 1 parameters"},
		},
		{
			name: "a class of rules that is not known", rules: []rule.Rule{{Class: rule.Lookup, Bind: []string{""}}},
			row:   change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), null()}},
			moves: []string{"0 a rule of the class LOOKUP, which this program does not know"},
		},
		{
			name: "row that does not fit its table", rules: []rule.Rule{byID},
			row:   change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7")}},
			moves: []string{"0 INSERT of public.products: its values do not match the table's columns"},
		},
		{
			name: "row without its image", rules: []rule.Rule{byID},
			row:   change.Row{Op: change.Delete, Relation: pk, New: []change.Value{text("7"), null(), null()}},
			moves: []string{"0 DELETE of public.products: it lacks the row"},
		},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out := route.NewKeys(100, 1000)
			route.New([]*rule.Entry{product(tt.rules...)}).Row(&tt.row, out)
			keys, moves := collect(out)
			if diff := cmp.Diff(tt.keys, keys); diff != "" {
				t.Errorf("keys (-want +got):\n%s", diff)
			}
			if diff := cmp.Diff(tt.moves, moves); diff != "" {
				t.Errorf("moves (-want +got):\n%s", diff)
			}
		})
	}
}

func TestIntegersOfOtherWidths(t *testing.T) {
	t.Parallel()
	e := product(rule.Rule{Bind: []string{"id"}})
	e.Params[0].Type = keytext.Int4
	out := route.NewKeys(100, 1000)
	row := change.Row{Op: change.Insert, Relation: products('d', "id"), New: []change.Value{text("5000000000"), null(), null()}}
	route.New([]*rule.Entry{e}).Row(&row, out)
	if keys, moves := collect(out); len(moves) != 0 || !slices.Equal(keys, []string{"0 product:5000000000"}) {
		t.Errorf("keys %q, moves %q: a value that the parameter cannot hold is a key that nobody has", keys, moves)
	}
}

func TestTruncateAndUnknownTables(t *testing.T) {
	t.Parallel()
	other := product(rule.Rule{Schema: "public", Table: "orders", Bind: []string{"product_id"}})
	router := route.New([]*rule.Entry{product(rule.Rule{Bind: []string{"id"}}), other})
	out := route.NewKeys(100, 1000)
	stranger := &change.Relation{OID: 5, Schema: "public", Name: "elsewhere", Columns: []change.Column{{Name: "id"}}}
	router.Row(&change.Row{Op: change.Insert, Relation: stranger, New: []change.Value{text("1")}}, out)
	router.Truncate(&change.Truncate{Relations: []*change.Relation{stranger}}, out)
	if !out.Empty() {
		t.Fatalf("tables of no entry had an effect: %v", out.Moves())
	}
	router.Truncate(&change.Truncate{Relations: []*change.Relation{products('d', "id"), stranger}}, out)
	if _, moves := collect(out); !slices.Equal(moves, []string{"0 TRUNCATE of public.products"}) {
		t.Errorf("moves = %q", moves)
	}
	if !out.Moved(0) || out.Moved(1) || out.Moved(1000) {
		t.Error("Moved does not agree with Moves")
	}
	out.Reset()
	if !out.Empty() || out.Moved(0) {
		t.Error("Reset left a move")
	}
}

// TestAlteredTable describes the table anew in each way that matters.
func TestAlteredTable(t *testing.T) {
	t.Parallel()
	entries := []*rule.Entry{product(rule.Rule{Bind: []string{"id"}})}
	tests := []struct {
		name  string
		alter func(*change.Relation)
		cause string
	}{
		{"the same", func(*change.Relation) {}, ""},
		{"identity", func(r *change.Relation) { r.Identity = change.IdentityNothing }, "0 table public.products was altered"},
		{"type", func(r *change.Relation) { r.Columns[1].TypeOID = 25 }, "0 table public.products was altered"},
		{"type modifier", func(r *change.Relation) { r.Columns[1].TypeMod = 9 }, "0 table public.products was altered"},
		{"column renamed", func(r *change.Relation) { r.Columns[1].Name = "title" }, "0 table public.products was altered"},
		{"column added", func(r *change.Relation) { r.Columns = append(r.Columns, change.Column{Name: "x"}) }, "0 table public.products was altered"},
		{"table renamed", func(r *change.Relation) { r.Name = "goods" }, "0 table public.products was altered"},
		{"another table of that name", func(r *change.Relation) { r.OID++ }, "0 table public.products was replaced by another one"},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			router := route.New(entries)
			out := route.NewKeys(100, 1000)
			before := products(change.IdentityDefault, "id")
			router.Row(&change.Row{Op: change.Insert, Relation: before, New: []change.Value{text("7"), null(), null()}}, out)
			after := products(change.IdentityDefault, "id")
			tt.alter(after)
			row := change.Row{Op: change.Insert, Relation: after, New: make([]change.Value, len(after.Columns))}
			for i := range row.New {
				row.New[i] = text("8")
			}
			router.Row(&row, out)
			_, moves := collect(out)
			if got := strings.Join(moves, "; "); got != tt.cause {
				t.Errorf("moves = %q, want %q", got, tt.cause)
			}
		})
	}
}

// TestTableUnderAnotherName has the log show a table first under a name that it had for a while, and another one under its
// name: both affect what is cached, though the table reads as it was planned by now.
func TestTableUnderAnotherName(t *testing.T) {
	t.Parallel()
	pk := products(change.IdentityDefault, "id")
	aside, other := products(change.IdentityDefault, "id"), products(change.IdentityDefault, "id")
	aside.Name = "aside"
	other.OID++
	for _, tt := range []struct {
		name     string
		relation *change.Relation
		keys     []string
		cause    string
	}{
		{"as planned", pk, []string{"0 product:7"}, ""},
		{"renamed for a while", aside, nil, "0 table public.products was written under the name public.aside"},
		{"swapped for a while", other, []string{"0 product:7"}, "0 table public.products was replaced by another one"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			router := route.New([]*rule.Entry{product(rule.Rule{Bind: []string{"id"}})})
			router.Planned("public", "products", pk.OID)
			out := route.NewKeys(100, 1000)
			for range 2 {
				router.Row(&change.Row{Op: change.Insert, Relation: tt.relation, New: []change.Value{text("7"), null(), null()}}, out)
			}
			keys, moves := collect(out)
			if got := strings.Join(moves, "; "); got != tt.cause || !slices.Equal(keys, tt.keys) {
				t.Errorf("keys %q, moves %q; want %q, %q", keys, got, tt.keys, tt.cause)
			}
		})
	}
}

// world is a table as it really is, from which the log's rows are made the way PostgreSQL makes them.
type world struct {
	relation *change.Relation
	entries  []*rule.Entry
}

var columnTypes = []keytext.Type{keytext.Int8, keytext.String, keytext.Int8, keytext.String}

func drawValue(t *rapid.T, typ keytext.Type) *string {
	pool := []string{"", "1", "2", "3"}
	if typ == keytext.String {
		pool = []string{"", "a", "b:c", "é%"}
	}
	v := rapid.SampledFrom(pool).Draw(t, "value")
	if v == "" {
		return nil
	}
	return &v
}

func drawWorld(t *rapid.T) world {
	w := world{relation: &change.Relation{OID: 1, Schema: "s", Name: "t"}}
	w.relation.Identity = rapid.SampledFrom([]change.Identity{'d', 'f', 'i', 'n'}).Draw(t, "identity")
	for i := range columnTypes {
		key := w.relation.Identity == 'f' || w.relation.Identity != 'n' && rapid.Bool().Draw(t, "key")
		w.relation.Columns = append(w.relation.Columns, change.Column{Name: fmt.Sprintf("c%d", i), Key: key})
	}
	column := rapid.IntRange(0, len(columnTypes)-1)
	for i := range rapid.IntRange(1, 3).Draw(t, "entries") {
		e := &rule.Entry{Name: fmt.Sprintf("e%d", i), Key: "k:{p0}/{p1}:z"}
		p0, p1 := rapid.SampledFrom([]int{0, 2}).Draw(t, "p0"), rapid.SampledFrom([]int{1, 3}).Draw(t, "p1")
		e.Params = []rule.Param{{Name: "p0", Type: keytext.Int8}, {Name: "p1", Type: keytext.String}}
		for range rapid.IntRange(1, 2).Draw(t, "rules") {
			one := rule.Rule{Schema: "s", Table: "t", Bind: []string{fmt.Sprintf("c%d", p0), fmt.Sprintf("c%d", p1)}}
			one.Columns = []string{one.Bind[0], one.Bind[1]}
			for range rapid.IntRange(0, 2).Draw(t, "conditions") {
				c := column.Draw(t, "column")
				op := rapid.SampledFrom([]rule.Comparison{rule.In, rule.NotIn, rule.IsNull, rule.IsNotNull}).Draw(t, "op")
				cond := rule.Condition{Column: fmt.Sprintf("c%d", c), Op: op, Type: columnTypes[c]}
				if op == rule.In || op == rule.NotIn {
					for range rapid.IntRange(1, 2).Draw(t, "values") {
						if v := drawValue(t, columnTypes[c]); v != nil {
							cond.Values = append(cond.Values, *v)
						}
					}
				}
				one.Where = append(one.Where, cond)
				one.Columns = append(one.Columns, cond.Column)
			}
			if rapid.Bool().Draw(t, "all columns") {
				one.Columns = nil
			}
			e.Rules = append(e.Rules, one)
		}
		w.entries = append(w.entries, e)
	}
	return w
}

func drawTuple(t *rapid.T, relation *change.Relation) []*string {
	tuple := make([]*string, len(columnTypes))
	for i, typ := range columnTypes {
		for tuple[i] = drawValue(t, typ); tuple[i] == nil && relation.Columns[i].Key && relation.Identity != 'f'; {
			tuple[i] = drawValue(t, typ)
		}
	}
	return tuple
}

func same(a, b *string) bool { return a == nil && b == nil || a != nil && b != nil && *a == *b }

// logged writes the row as pgoutput would.
func (w world) logged(t *rapid.T, old, now []*string) *change.Row {
	image := func(tuple []*string, keysOnly bool) []change.Value {
		if tuple == nil {
			return nil
		}
		values := make([]change.Value, len(tuple))
		for i, v := range tuple {
			switch {
			case keysOnly && !w.relation.Columns[i].Key:
			case v == nil:
				values[i] = null()
			default:
				values[i] = text(*v)
			}
		}
		return values
	}
	row := &change.Row{Relation: w.relation, Op: change.Update, Old: image(old, true), New: image(now, false)}
	switch {
	case old == nil:
		row.Op = change.Insert
		return row
	case now == nil:
		row.Op = change.Delete
		return row
	}
	keyChanged := w.relation.Identity == 'f'
	for i := range now {
		if same(old[i], now[i]) && now[i] != nil && rapid.IntRange(0, 3).Draw(t, "toasted") == 0 {
			row.New[i] = unchanged()
			// A key column that is stored out of line is logged with the old image.
			keyChanged = keyChanged || w.relation.Columns[i].Key
		}
		keyChanged = keyChanged || w.relation.Columns[i].Key && !same(old[i], now[i])
	}
	if !keyChanged {
		row.Old = nil
	}
	return row
}

// keyOf is the key of a true row under a rule: "" when the row does not matter to it.
func keyOf(one *rule.Rule, tuple []*string) string {
	at := func(name string) *string { return tuple[name[1]-'0'] }
	if tuple == nil || at(one.Bind[0]) == nil || at(one.Bind[1]) == nil {
		return ""
	}
	for _, c := range one.Where {
		v := at(c.Column)
		holds := false
		switch c.Op {
		case rule.In:
			holds = v != nil && slices.Contains(c.Values, *v)
		case rule.NotIn:
			holds = v != nil && !slices.Contains(c.Values, *v)
		case rule.IsNull:
			holds = v == nil
		case rule.IsNotNull:
			holds = v != nil
		}
		if !holds {
			return ""
		}
	}
	key := []byte("k:")
	key = keytext.AppendEscaped(key, keytext.Arg{Text: *at(one.Bind[0])})
	key = append(key, '/')
	key = keytext.AppendEscaped(key, keytext.Arg{Text: *at(one.Bind[1])})
	return string(append(key, ":z"...))
}

// TestAgreesWithTruth compares what is routed from the log with what follows from the rows themselves. Nothing may be
// missed under any identity; under FULL nothing else may be named, and no version may move.
func TestAgreesWithTruth(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		w := drawWorld(t)
		router := route.New(w.entries)
		out := route.NewKeys(1000, 1<<20)
		full := w.relation.Identity == 'f'
		needed, allowed := map[string]bool{}, map[string]bool{}
		for range rapid.IntRange(1, 5).Draw(t, "rows") {
			old, now := drawTuple(t, w.relation), drawTuple(t, w.relation)
			switch rapid.IntRange(0, 4).Draw(t, "op") {
			case 0:
				old = nil
			case 1:
				now = nil
			}
			router.Row(w.logged(t, old, now), out)
			for i, e := range w.entries {
				for j := range e.Rules {
					one := &e.Rules[j]
					changed := old == nil || now == nil || len(one.Columns) == 0
					for _, c := range one.Columns {
						changed = changed || !same(old[c[1]-'0'], now[c[1]-'0'])
					}
					for _, tuple := range [][]*string{old, now} {
						if key := keyOf(one, tuple); key != "" && changed {
							needed[fmt.Sprintf("%d %s", i, key)] = true
						}
						unfiltered := *one
						unfiltered.Where = nil
						allowed[fmt.Sprintf("%d %s", i, keyOf(&unfiltered, tuple))] = true
					}
				}
			}
		}
		keys, moves := collect(out)
		for key := range needed {
			if !slices.Contains(keys, key) && !out.Moved(int(key[0]-'0')) {
				t.Fatalf("%q is missed; keys %q, moves %q", key, keys, moves)
			}
		}
		for i, key := range keys {
			if full && !needed[key] || !allowed[key] {
				t.Fatalf("%q is named without need", key)
			}
			if slices.Contains(keys[:i], key) {
				t.Fatalf("%q is named twice", key)
			}
		}
		if full && len(moves) > 0 {
			t.Fatalf("versions move although the log has everything: %q", moves)
		}
	})
}

// TestKeysWindow compares the buffer with a map over many windows of different sizes.
func TestKeysWindow(t *testing.T) {
	t.Parallel()
	rapid.Check(t, func(t *rapid.T) {
		out := route.NewKeys(rapid.IntRange(1, 400).Draw(t, "max keys"), 1<<20)
		entries := []*rule.Entry{product(rule.Rule{Bind: []string{"id"}}), product(rule.Rule{Bind: []string{"id"}})}
		router := route.New(entries)
		relation := products('d', "id")
		for range rapid.IntRange(1, 4).Draw(t, "windows") {
			want := map[string]bool{}
			span := rapid.IntRange(1, 500).Draw(t, "span")
			for range rapid.IntRange(0, 600).Draw(t, "rows") {
				if out.Full() {
					break
				}
				id := rapid.IntRange(0, span).Draw(t, "id")
				row := change.Row{Op: change.Insert, Relation: relation, New: []change.Value{text(strconv.Itoa(id)), null(), null()}}
				router.Row(&row, out)
				want[fmt.Sprintf("0 product:%d", id)], want[fmt.Sprintf("1 product:%d", id)] = true, true
			}
			keys, _ := collect(out)
			got := map[string]bool{}
			for _, key := range keys {
				got[key] = true
			}
			if len(keys) != len(want) || !cmp.Equal(got, want, cmp.Comparer(func(a, b bool) bool { return a == b })) {
				t.Fatalf("%d keys, want %d: %s", len(keys), len(want), cmp.Diff(want, got))
			}
			out.Reset()
			if !out.Empty() || out.Bytes() != 0 || out.Len() != 0 {
				t.Fatal("Reset left something")
			}
		}
	})
}

func TestFullByBytes(t *testing.T) {
	t.Parallel()
	out := route.NewKeys(1000, 20)
	router := route.New([]*rule.Entry{product(rule.Rule{Bind: []string{"id"}})})
	relation := products('d', "id")
	for i, want := range []bool{false, true} {
		row := change.Row{Op: change.Insert, Relation: relation, New: []change.Value{text(strconv.Itoa(10 + i)), null(), null()}}
		router.Row(&row, out)
		if out.Full() != want {
			t.Errorf("after %d keys (%d bytes) Full = %v", i+1, out.Bytes(), out.Full())
		}
	}
}

// steady is a router with a row that meets every step: a condition, a number, a text that needs escaping.
func steady() (*route.Router, *route.Keys, *change.Row, [][]byte) {
	row, ids := steadyRows()
	return route.New([]*rule.Entry{steadyEntry()}), route.NewKeys(1000, 1<<20), row, ids
}

func steadyEntry() *rule.Entry {
	return &rule.Entry{
		Key:    "shop:{id}/{name}",
		Params: []rule.Param{{Name: "id", Type: keytext.Int8}, {Name: "name", Type: keytext.String}},
		Rules: []rule.Rule{{
			Schema: "public", Table: "products", Bind: []string{"id", "name"}, Columns: []string{"id", "name"},
			Where: []rule.Condition{{Column: "deleted_at", Op: rule.NotIn, Type: keytext.Int8, Values: []string{"9"}}},
		}, {
			Schema: "public", Table: "products", Bind: []string{"id", ""}, Fixed: []*keytext.Arg{nil, {Text: "a b"}},
		}},
	}
}

func steadyRows() (row *change.Row, ids [][]byte) {
	row = &change.Row{
		Op: change.Update, Relation: products(change.IdentityFull),
		Old: []change.Value{text("1"), text("a b"), text("5")}, New: []change.Value{text("1"), text("a c"), text("5")},
	}
	for i := range 1000 {
		ids = append(ids, []byte(strconv.Itoa(1000000+i)))
	}
	return row, ids
}

func feed(router *route.Router, out *route.Keys, row *change.Row, ids [][]byte) {
	for _, id := range ids {
		row.Old[0].Text, row.New[0].Text = id, id
		router.Row(row, out)
		if out.Full() {
			out.Reset()
		}
	}
}

func TestSteadyStateDoesNotAllocate(t *testing.T) { //nolint:paralleltest // AllocsPerRun forbids it
	router, out, row, ids := steady()
	feed(router, out, row, ids)
	if allocs := testing.AllocsPerRun(10, func() { feed(router, out, row, ids) }); allocs != 0 {
		t.Errorf("%v allocations per %d rows in the steady state", allocs, len(ids))
	}
}

func BenchmarkRow(b *testing.B) {
	router, out, row, ids := steady()
	b.ReportAllocs()
	for b.Loop() {
		feed(router, out, row, ids)
	}
	b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(b.N*len(ids)), "ns/row")
}

// BenchmarkEntries routes rows of a table that one entry of many reads, and of one that all of them read.
func BenchmarkEntries(b *testing.B) {
	for _, shared := range []bool{false, true} {
		for _, n := range []int{1, 10, 100, 1000} {
			name := fmt.Sprintf("table of one/entries=%d", n)
			if shared {
				name = fmt.Sprintf("table of all/entries=%d", n)
			}
			b.Run(name, func(b *testing.B) {
				entries := make([]*rule.Entry, n)
				for i := range entries {
					entries[i] = steadyEntry()
					for j := range entries[i].Rules {
						if i > 0 && !shared {
							entries[i].Rules[j].Table = fmt.Sprintf("other_%d", i)
						}
					}
				}
				row, ids := steadyRows()
				router, out := route.New(entries), route.NewKeys(1<<12, 1<<20)
				b.ReportAllocs()
				for b.Loop() {
					feed(router, out, row, ids)
				}
				b.ReportMetric(float64(b.N*len(ids))/b.Elapsed().Seconds(), "events/s")
			})
		}
	}
}
