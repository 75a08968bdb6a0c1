package route_test

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
)

func texts(args ...string) (all []keytext.Arg) {
	for _, a := range args {
		all = append(all, keytext.Arg{Text: a, Null: a == "NULL"})
	}
	return all
}

func TestKey(t *testing.T) {
	t.Parallel()
	line := &rule.Entry{Name: "line", Key: "order:{o}/line:{n}", Params: []rule.Param{{Name: "o", Type: keytext.Int4}, {Name: "n", Type: keytext.String}}}
	rate := &rule.Entry{Name: "rate", Key: "rate:{currency}", Params: []rule.Param{{Name: "currency", Type: keytext.Unknown}}}
	broken := &rule.Entry{Name: "broken", Key: "broken:{a}"}
	r := route.New([]*rule.Entry{product(), line, rate, broken})
	for _, tt := range []struct {
		entry string
		args  []keytext.Arg
		key   string
		move  string
	}{
		{"product", texts(" 007"), "0 product:7", ""},
		{"product", texts("NULL"), "0 product:%-", ""},
		{"line", texts("7", "a/b é"), "1 order:7/line:a%2Fb%20%C3%A9", ""},
		{"line", texts("3000000000", ""), "1 order:3000000000/line:", ""},
		{"rate", texts("007"), "2 rate:007", ""},
		{"product", texts("x"), "", `0 argument 1 of an intent: int8 "x"`},
		{"product", nil, "", "0 an intent has 0 arguments, the key has 1 parameters"},
		{"line", texts("1", "\xff"), "", "1 argument 2 of an intent"},
		{"broken", texts("1"), "", "3 the key has 1 parameters, and types for 0"},
	} {
		out := route.NewKeys(10, 1000)
		if !r.Key(tt.entry, tt.args, out) {
			t.Errorf("%s%v is not known", tt.entry, tt.args)
		}
		keys, moves := collect(out)
		if strings.Join(keys, ", ") != tt.key || !strings.HasPrefix(strings.Join(moves, ", "), tt.move) || (len(moves) > 0) != (tt.move != "") {
			t.Errorf("%s%v: keys %q, moves %q, want %q, %q", tt.entry, tt.args, keys, moves, tt.key, tt.move)
		}
	}
	out := route.NewKeys(10, 1000)
	if r.Key("nothing", texts("1"), out) || r.Undecodable("nothing", "why", out) || !out.Empty() {
		t.Error("an entry that there is not is known")
	}
	for _, id := range []string{"1", "01", "2", "1"} {
		r.Key("product", texts(id), out)
	}
	if keys, _ := collect(out); cmp.Diff([]string{"0 product:1", "0 product:2"}, keys) != "" {
		t.Errorf("coalesced to %q", keys)
	}
}

func TestUndecodable(t *testing.T) {
	t.Parallel()
	other := &rule.Entry{Name: "other", Key: "other"}
	r := route.New([]*rule.Entry{product(), other})
	out := route.NewKeys(10, 1000)
	if !r.Undecodable("other", "a reason", out) || out.Moved(0) || !out.Moved(1) {
		t.Error("it moves another than the entry that it names")
	}
	if _, moves := collect(out); moves[0] != "1 an intent that cannot be read: a reason" {
		t.Errorf("moves %q", moves)
	}
	out.Reset()
	if !r.Undecodable("", "a reason", out) || !out.Moved(0) || !out.Moved(1) {
		t.Error("it does not move all")
	}
}

// TestIntentAgreesWithRow: an intent spells the key that a changed row with the same values gives.
func TestIntentAgreesWithRow(t *testing.T) {
	t.Parallel()
	const nothing = "0001-01-01 00:00:00"
	spelling := map[keytext.Type]*rapid.Generator[string]{
		keytext.Int8:      rapid.StringMatching(`-?[1-9][0-9]{0,17}`),
		keytext.String:    rapid.StringMatching(`[ -~é]{0,20}`),
		keytext.Bool:      rapid.SampledFrom([]string{"t", "f"}),
		keytext.Numeric:   rapid.StringMatching(`-?[1-9][0-9]{0,5}(\.[0-9]{1,5})?`),
		keytext.Timestamp: rapid.SampledFrom([]string{nothing, "2026-11-27 10:50:40.5"}),
		keytext.UUID:      rapid.StringMatching(`[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}`),
	}
	rapid.Check(t, func(t *rapid.T) {
		typ := rapid.SampledFrom([]keytext.Type{
			keytext.Int8, keytext.String, keytext.Bool, keytext.Numeric, keytext.Timestamp, keytext.UUID,
		}).Draw(t, "type")
		value := spelling[typ].Draw(t, "value")
		e := product(rule.Rule{Bind: []string{"name"}})
		e.Params[0].Type = typ
		r := route.New([]*rule.Entry{e})
		ofRow, ofIntent := route.NewKeys(10, 1000), route.NewKeys(10, 1000)
		r.Row(&change.Row{Op: change.Insert, Relation: products(change.IdentityDefault, "id"), New: []change.Value{text("1"), text(value), null()}}, ofRow)
		r.Key("product", texts(value), ofIntent)
		want, _ := collect(ofRow)
		got, moves := collect(ofIntent)
		if diff := cmp.Diff(want, got); diff != "" || len(got) != 1 || len(moves) > 0 {
			t.Errorf("%s %q: moves %q (-row +intent):\n%s", typ, value, moves, diff)
		}
	})
}

// TestIntentOfSeveralVersions: a transaction that names a key means it in every version that is served.
func TestIntentOfSeveralVersions(t *testing.T) {
	t.Parallel()
	version := func(typ keytext.Type) *rule.Entry {
		return &rule.Entry{Name: "line", Key: "line:{id}", Params: []rule.Param{{Name: "id", Type: typ}}}
	}
	r := route.New([]*rule.Entry{version(keytext.Int4), version(keytext.String)})
	out := route.NewKeys(10, 1000)
	if !r.Key("line", []keytext.Arg{{Text: "007"}}, out) {
		t.Fatal("Key = false, want the entry known")
	}
	var got []string
	for i := range out.Len() {
		entry, key := out.At(i)
		got = append(got, fmt.Sprint(entry, " ", string(key)))
	}
	if want := []string{"0 line:7", "1 line:007"}; !slices.Equal(got, want) {
		t.Errorf("keys %v, want %v", got, want)
	}
	out.Reset()
	if !r.Undecodable("line", "planted", out) || len(out.Moves()) != 2 {
		t.Errorf("an intent that cannot be read moves %v, want both versions", out.Moves())
	}
}
