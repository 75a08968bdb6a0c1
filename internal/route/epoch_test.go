package route_test

import (
	"fmt"
	"slices"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
)

// ended are the epochs that are held, and whether nothing else is.
func ended(out *route.Keys) (epochs []string, alone bool) {
	alone = len(out.Moves()) == 0
	for i := range out.Len() {
		entry, text := out.At(i)
		epochs = append(epochs, fmt.Sprintf("%d %s", entry, text))
		alone = alone && out.Epoch(i)
	}
	return epochs, alone
}

// TestRowEndsEpochs has every way in which an image names an epoch, and that what is not known of it makes that broader.
func TestRowEndsEpochs(t *testing.T) {
	t.Parallel()
	pk, full := products('d', "id"), products('f')
	broad := rule.Rule{Class: rule.Broad, Bind: []string{""}, Columns: []string{"id", "name"}}
	group := rule.Rule{Class: rule.Group, Bind: []string{"name"}}
	tag := rule.Rule{
		Class: rule.Tag, Bind: []string{"id"},
		Tag: &rule.TagQuery{SQL: "SELECT 1", From: []string{"name", "deleted_at"}, Types: []keytext.Type{keytext.Int4, keytext.String}},
	}
	gone := rule.Condition{Column: "deleted_at", Op: rule.IsNull}
	seven := []*keytext.Arg{{Text: "a:b"}}
	for _, tt := range []struct {
		name string
		rule rule.Rule
		row  change.Row
		want []string
	}{
		{"BROAD", broad, change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), null(), null()}}, []string{"0 ~0"}},
		{
			"BROAD, of columns that it does not read", broad,
			change.Row{Op: change.Update, Relation: full, Old: []change.Value{text("7"), text("a"), null()}, New: []change.Value{text("7"), text("a"), text("x")}},
			nil,
		},
		{
			"BROAD, of rows that do not matter",
			rule.Rule{Class: rule.Broad, Bind: []string{""}, Where: []rule.Condition{gone}},
			change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("a"), text("x")}},
			nil,
		},
		{
			"GROUP, old and new", group,
			change.Row{Op: change.Update, Relation: full, Old: []change.Value{text("7"), text("1"), null()}, New: []change.Value{text("7"), text("2"), null()}},
			[]string{"0 ~0:1", "0 ~0:2"},
		},
		{"GROUP, of NULL", group, change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), null(), null()}}, nil},
		{
			"GROUP, of an old value that the log does not have", group,
			change.Row{Op: change.Update, Relation: pk, New: []change.Value{text("7"), text("2"), null()}},
			[]string{"0 ~0", "0 ~0:2"},
		},
		{
			"GROUP, of a new value that was not sent", group,
			change.Row{Op: change.Update, Relation: pk, New: []change.Value{text("7"), unchanged(), null()}},
			[]string{"0 ~0"},
		},
		{
			"GROUP, of a value that has no canonical text", group,
			change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("seven"), null()}},
			[]string{"0 ~0"},
		},
		{
			"GROUP, of a column that the log does not carry",
			rule.Rule{Class: rule.Group, Bind: []string{"generated"}},
			change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("1"), null()}},
			[]string{"0 ~0"},
		},
		{
			"GROUP, of a constant",
			rule.Rule{Class: rule.Group, Bind: []string{""}, Fixed: seven},
			change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), null(), null()}},
			[]string{"0 ~0:a%3Ab"},
		},
		{
			"TAG", tag,
			change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), text("007"), text("x:")}},
			[]string{"0 ~0:7:x%3A", "0 ~0+"},
		},
		{"TAG, of NULL", tag, change.Row{Op: change.Insert, Relation: pk, New: []change.Value{text("7"), null(), text("x")}}, nil},
		{"TAG, of a parameter that is NULL", tag, change.Row{Op: change.Insert, Relation: pk, New: []change.Value{null(), text("7"), text("x")}}, nil},
		{
			"TAG, of old values that the log does not have", tag,
			change.Row{Op: change.Delete, Relation: pk, Old: []change.Value{text("7"), absent(), absent()}},
			[]string{"0 ~0"},
		},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			out := route.NewKeys(100, 1000)
			route.New([]*rule.Entry{product(tt.rule)}).Row(&tt.row, out)
			got, alone := ended(out)
			if diff := cmp.Diff(tt.want, got); diff != "" || !alone {
				t.Errorf("alone %t, epochs (-want +got):\n%s", alone, diff)
			}
		})
	}
}

// TestEpochsAndKeysAreApart: a key may be spelled like an epoch, and both are told from each other; each is held once.
func TestEpochsAndKeysAreApart(t *testing.T) {
	t.Parallel()
	e := product(rule.Rule{Bind: []string{"id"}}, rule.Rule{Class: rule.Group, Bind: []string{"id"}}, rule.Rule{Class: rule.Broad, Bind: []string{""}})
	e.Key = "~1:{id}"
	router, out := route.New([]*rule.Entry{e}), route.NewKeys(100, 1000)
	row := change.Row{Op: change.Insert, Relation: products('d', "id"), New: []change.Value{text("7"), null(), null()}}
	out.Mark(1)
	router.Row(&row, out)
	out.Mark(2)
	router.Row(&row, out)
	got, _ := ended(out)
	if !slices.Equal(got, []string{"0 ~1:7", "0 ~1:7", "0 ~2"}) || out.Epoch(0) || !out.Epoch(1) || !out.Epoch(2) {
		t.Errorf("held %q, epochs %t %t %t", got, out.Epoch(0), out.Epoch(1), out.Epoch(2))
	}
	for i := range out.Len() {
		if out.Marks(i) != 3 {
			t.Errorf("%q is marked with %b", got[i], out.Marks(i))
		}
	}
}
