package whatif

import (
	"bytes"
	"slices"
	"strings"

	"github.com/freshet/freshet/internal/change"
	"github.com/freshet/freshet/internal/route"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
)

// Answer says what an event does to the keys of entries.
type Answer struct {
	Event    string        `json:"event"`
	Table    string        `json:"table"`
	Identity string        `json:"identity"`
	Old      []Field       `json:"old,omitempty"` // what the log carries of the row as it was, as far as the event says it
	New      []Field       `json:"new,omitempty"`
	Lost     []string      `json:"lost,omitempty"` // old values that the event gives and the log does not carry
	Entries  []EntryAnswer `json:"entries"`        // those that read the table
	Others   []string      `json:"others"`         // those that do not
}

// Field is a column of an image.
type Field struct {
	Column string  `json:"column"`
	Value  *string `json:"value"` // nil: NULL
}

// EntryAnswer is what it does to one entry.
type EntryAnswer struct {
	Entry string       `json:"entry"`
	Keys  []string     `json:"keys"`            // of all rules
	Moves string       `json:"moves,omitempty"` // why every key is affected, by another name of the entry
	Rules []RuleAnswer `json:"rules"`
}

// RuleAnswer is what it does by one rule: one for each time that the query names the table.
type RuleAnswer struct {
	Rule  int          `json:"rule"` // among those of the entry, from 1
	Alias string       `json:"alias,omitempty"`
	Class string       `json:"class"`
	Old   *ImageAnswer `json:"old,omitempty"`
	New   *ImageAnswer `json:"new,omitempty"`
	// Ignored says why the whole change is, Moves why all keys of the entry are affected, and Name which columns the
	// event has to name for an answer.
	Ignored string   `json:"ignored,omitempty"`
	Moves   string   `json:"moves,omitempty"`
	Name    []string `json:"name,omitempty"`
	// Assumed are conditions that cannot be judged by what the event says.
	Assumed []string `json:"assumed,omitempty"`
	// Through are the keys that the row leads to through other tables, where that is asked.
	Through *Through `json:"through,omitempty"`
}

// Through are keys that other tables lead to as they are now. A TAG rule drops those of them that are cached; of a value that was
// filled earlier it knows what was noted then.
type Through struct {
	Keys    []string `json:"keys"`
	More    bool     `json:"more,omitempty"`    // than are listed
	Problem string   `json:"problem,omitempty"` // why the database does not say
}

// ImageAnswer is what one image of the row does.
type ImageAnswer struct {
	Key string `json:"key,omitempty"`
	// Epoch is one whose values all go, as it stands in the store: ~2:7 is that of the entry's third rule with the value 7.
	Epoch string `json:"epoch,omitempty"`
	// LookedUp says by which values the database is asked for the keys.
	LookedUp string `json:"looked_up,omitempty"`
	Ignored  string `json:"ignored,omitempty"`
}

// Options are what an answer is made from.
type Options struct {
	Catalog *schema.Catalog
	Entries []*rule.Entry
	// Text is a value as the log has it. An error says that the column cannot have it.
	Text func(column *schema.Column, text string) (string, error)
	// Through has the database find keys by a LOOKUP rule, which need not be how the entry is served: LookedUp has it, for entries
	// with TAG rules, by their names. values has a slice for each image.
	Through  func(entry *rule.Entry, index int, values [][]string) (*Through, error)
	LookedUp map[string]*rule.Entry
}

// Answer has the router say what the event does.
func (e *Event) Answer(o Options) (*Answer, error) {
	t, err := e.table(o.Catalog)
	if err != nil {
		return nil, err
	}
	a := &Answer{Event: e.Text, Table: t.String(), Identity: identity(t), Entries: []EntryAnswer{}, Others: []string{}}
	w := &worker{table: t, relation: relation(t), named: map[string]bool{}}
	if err := e.images(w, o); err != nil {
		return nil, err
	}
	a.Old, a.New, a.Lost = w.fields(w.old), w.fields(w.row.New), w.lost
	for _, entry := range o.Entries {
		one := w.entry(e, entry)
		if err := w.through(&one, entry, &o); err != nil {
			return nil, err
		}
		if len(one.Rules) > 0 {
			a.Entries = append(a.Entries, one)
		} else {
			a.Others = append(a.Others, entry.Name)
		}
	}
	return a, nil
}

func (e *Event) fail(at int, problem, do string) error {
	return &Error{Event: e.Text, Offset: at, Problem: problem, Do: do}
}

func (e *Event) table(c *schema.Catalog) (*schema.Table, error) {
	path := c.SearchPath
	if e.Schema != "" {
		path = []string{e.Schema}
	}
	for _, name := range path {
		t := c.Tables[schema.Name{Schema: name, Name: e.Table}]
		switch {
		case t == nil:
			continue
		case t.Kind != schema.OrdinaryTable && t.Kind != schema.PartitionedTable:
			return nil, e.fail(e.tableAt, t.String()+" is no table", "Name the table whose row changes.")
		case t.IsPartition:
			return nil, e.fail(e.tableAt, t.String()+" is a partition", "Name the partitioned table: the log has its changes under that name.")
		}
		return t, nil
	}
	return nil, e.fail(e.tableAt, "there is no table "+e.Table+" in "+strings.Join(path, ", "), "Correct the name, or write it with its schema.")
}

// worker answers for one table and one pair of images.
type worker struct {
	table    *schema.Table
	relation *change.Relation
	row      change.Row
	old      []change.Value // of the old row, what the log says of it
	named    map[string]bool
	lost     []string
}

// relation describes the table as the log does.
func relation(t *schema.Table) *change.Relation {
	r := &change.Relation{OID: t.OID, Schema: t.Schema, Name: t.Name.Name, Identity: t.Identity}
	for i := range t.Columns {
		if c := &t.Columns[i]; !c.Generated {
			r.Columns = append(r.Columns, change.Column{Name: c.Name, TypeOID: c.TypeOID, Key: slices.Contains(t.IdentityCols, c.Name)})
		}
	}
	return r
}

// images makes of what the event says what the log would carry.
func (e *Event) images(w *worker, o Options) error {
	before := make([]change.Value, len(w.relation.Columns))
	after := make([]change.Value, len(w.relation.Columns))
	for i := range after {
		after[i].Kind = change.Unchanged // of an UPDATE that does not name the column
		if e.Op == change.Insert {
			after[i].Kind = change.Absent
		}
	}
	keyChanges := false
	for _, item := range e.Items {
		at := slices.IndexFunc(w.relation.Columns, func(c change.Column) bool { return c.Name == item.Column })
		if at < 0 {
			if c := w.table.Column(item.Column); c != nil {
				return e.fail(item.at, item.Column+" is a generated column, which the log does not carry", "Name the columns that it is generated from.")
			}
			return e.fail(item.at, "there is no column "+item.Column+" in "+w.table.String(), "Correct the name.")
		}
		w.named[item.Column] = true
		for _, side := range []struct {
			value *Value
			image []change.Value
		}{{item.Old, before}, {item.New, after}} {
			if side.value == nil {
				continue
			}
			v, err := e.value(w.table, item.Column, side.value, o)
			if err != nil {
				return err
			}
			side.image[at] = v
		}
		keyChanges = keyChanges || w.relation.Columns[at].Key && !same(before[at], after[at])
	}
	w.row = change.Row{Op: e.Op, Relation: w.relation}
	if e.Op == change.Insert || e.Op == change.Update {
		w.row.New = after
	}
	if e.Op == change.Insert || e.Truncate {
		return nil
	}
	for i, c := range w.relation.Columns {
		if !c.Key {
			if before[i].Kind != change.Absent && !same(before[i], after[i]) {
				w.lost = append(w.lost, c.Name)
			}
			before[i] = change.Value{}
		}
	}
	if w.relation.Identity == change.IdentityFull || e.Op == change.Delete || keyChanges {
		w.row.Old = before
	}
	w.old = before
	return nil
}

func (e *Event) value(t *schema.Table, column string, v *Value, o Options) (change.Value, error) {
	if v.Null {
		return change.Value{Kind: change.Null}, nil
	}
	text, err := o.Text(t.Column(column), v.Text)
	if err != nil {
		return change.Value{}, e.fail(v.at, err.Error(), "Write it as PostgreSQL reads the type "+t.Column(column).Type+".")
	}
	return change.Value{Kind: change.Text, Text: []byte(text)}, nil
}

func same(a, b change.Value) bool {
	return a.Kind == b.Kind && bytes.Equal(a.Text, b.Text)
}

func (w *worker) fields(image []change.Value) (fields []Field) {
	for i, v := range image {
		switch v.Kind {
		case change.Null:
			fields = append(fields, Field{Column: w.relation.Columns[i].Name})
		case change.Text:
			text := string(v.Text)
			fields = append(fields, Field{Column: w.relation.Columns[i].Name, Value: &text})
		case change.Absent, change.Unchanged:
		}
	}
	return fields
}

func (w *worker) entry(e *Event, entry *rule.Entry) EntryAnswer {
	one := EntryAnswer{Entry: entry.Name, Keys: []string{}}
	for i := range entry.Rules {
		r := &entry.Rules[i]
		if r.Schema != w.table.Schema || r.Table != w.table.Name.Name {
			continue
		}
		answer := RuleAnswer{Rule: i + 1, Class: string(rule.Exact)}
		if r.Class != "" {
			answer.Class = string(r.Class)
		}
		if r.Occurrence != r.Table {
			answer.Alias = r.Occurrence
		}
		if e.Truncate {
			answer.Moves = "TRUNCATE takes every row"
		} else {
			w.rule(&answer, entry, i)
		}
		for _, image := range []*ImageAnswer{answer.Old, answer.New} {
			if image != nil && image.Key != "" && !slices.Contains(one.Keys, image.Key) {
				one.Keys = append(one.Keys, image.Key)
			}
		}
		if one.Moves == "" {
			one.Moves = answer.Moves
		}
		one.Rules = append(one.Rules, answer)
	}
	return one
}

// rule has the router say what the row does by one rule: as a whole, which decides, and by each image.
func (w *worker) rule(answer *RuleAnswer, entry *rule.Entry, index int) {
	only := single(entry, index)
	r := &only.Rules[index]
	s := ask(only, &w.row)
	for _, c := range r.Where {
		if !w.named[c.Column] && s.something() {
			answer.Assumed = append(answer.Assumed, condition(&c))
		}
	}
	// The event does not say what tells the keys, or the log does not.
	vague := len(s.moves) > 0 || r.Class != rule.Broad && slices.Contains(s.epochs, string(rule.AppendOwnEpoch(nil, index)))
	if vague {
		if answer.Name = w.unnamed(r); len(answer.Name) > 0 {
			return
		}
	}
	if len(s.moves) > 0 {
		answer.Moves = s.moves[0]
		return
	}
	if w.row.Op == change.Update && !s.something() {
		whole := *only
		whole.Rules = slices.Clone(only.Rules)
		whole.Rules[index].Columns = nil
		if hits(&whole, &w.row) {
			answer.Ignored = "it changes none of the columns that the query reads (" + strings.Join(r.Columns, ", ") + ")"
			return
		}
	}
	if w.row.Op != change.Insert {
		answer.Old = image(only, index, &change.Row{Op: change.Delete, Relation: w.relation, Old: w.before()})
	}
	if w.row.Op != change.Delete {
		answer.New = image(only, index, &change.Row{Op: change.Insert, Relation: w.relation, New: w.after()})
	}
}

// through has the database find the keys that the row leads to through other tables.
func (w *worker) through(one *EntryAnswer, entry *rule.Entry, o *Options) error {
	if looked := o.LookedUp[entry.Name]; looked != nil {
		entry = looked
	}
	for i := range one.Rules {
		answer := &one.Rules[i]
		if o.Through == nil || entry.Rules[answer.Rule-1].Lookup == nil || !answer.Old.further() && !answer.New.further() {
			continue
		}
		s := ask(single(entry, answer.Rule-1), &w.row)
		if len(s.values) == 0 {
			continue
		}
		var err error
		if answer.Through, err = o.Through(entry, answer.Rule-1, s.values); err != nil {
			return err
		}
	}
	return nil
}

// before is the old row as the router sees it: without an old image the identity's columns are what they were.
func (w *worker) before() []change.Value {
	if w.row.Old != nil {
		return w.row.Old
	}
	old := make([]change.Value, len(w.row.New))
	for i, c := range w.relation.Columns {
		if c.Key {
			old[i] = w.row.New[i]
		}
	}
	return old
}

// after is the new row as the router sees it.
func (w *worker) after() []change.Value {
	image := slices.Clone(w.row.New)
	for i := range image {
		if image[i].Kind == change.Unchanged && w.row.Old != nil {
			image[i] = w.row.Old[i]
		}
	}
	return image
}

// unnamed are the columns that the key is made of, that the log would carry, and that the event does not name.
func (w *worker) unnamed(r *rule.Rule) (names []string) {
	for _, column := range r.Needs() {
		at := slices.IndexFunc(w.relation.Columns, func(c change.Column) bool { return c.Name == column })
		if at >= 0 && !w.named[column] && (w.row.Op != change.Delete || w.relation.Columns[at].Key) && !slices.Contains(names, column) {
			names = append(names, column)
		}
	}
	return names
}

// single is the entry with one of its rules, in its place; the others are of no table.
func single(entry *rule.Entry, index int) *rule.Entry {
	one := *entry
	one.Rules = make([]rule.Rule, len(entry.Rules))
	one.Rules[index] = entry.Rules[index]
	return &one
}

// said is what the router says of a row.
type said struct {
	keys, epochs, lookUps []string
	values                [][]string // of the look-ups
	moves                 []string
}

func (s *said) something() bool { return len(s.keys)+len(s.epochs)+len(s.lookUps)+len(s.moves) > 0 }

// ask has a router that knows nothing yet say what a row does.
func ask(entry *rule.Entry, row *change.Row) (s said) {
	const enough, size = 8, 1 << 20
	out := route.NewKeys(enough, size)
	route.New([]*rule.Entry{entry}).Row(row, out)
	for i := range out.Len() {
		_, text := out.At(i)
		number, values, looks := out.LookUp(i)
		switch {
		case looks:
			s.values = append(s.values, values)
			s.lookUps = append(s.lookUps, strings.Join(entry.Rules[number].Lookup.From, ", ")+" = "+strings.Join(values, ", "))
		case !out.Epoch(i):
			s.keys = append(s.keys, string(text))
		case !rule.IsSharedEpoch(text):
			s.epochs = append(s.epochs, string(text))
		}
	}
	for _, m := range out.Moves() {
		s.moves = append(s.moves, m.Cause)
	}
	return s
}

// image says what one image does, and why it does nothing: by asking again without each of the conditions.
func image(only *rule.Entry, index int, row *change.Row) *ImageAnswer {
	s := ask(only, row)
	r := &only.Rules[index]
	switch {
	case len(s.moves) > 0:
		return &ImageAnswer{Ignored: s.moves[0]} // the row as a whole moved nothing, so this one does not count
	case len(s.lookUps) > 0:
		return &ImageAnswer{LookedUp: s.lookUps[0]}
	case len(s.epochs) > 0:
		return &ImageAnswer{Epoch: s.epochs[0]}
	case len(s.keys) > 0:
		return &ImageAnswer{Key: s.keys[0]}
	}
	free := *only
	free.Rules = slices.Clone(only.Rules)
	for i := range r.Where {
		free.Rules[index].Where = r.Where[i : i+1]
		if !hits(&free, row) {
			free.Rules[index].Where = nil
			if hits(&free, row) {
				return &ImageAnswer{Ignored: "it fails " + condition(&r.Where[i])}
			}
		}
	}
	return &ImageAnswer{Ignored: "a column of the key is NULL, which equals nothing"}
}

func hits(entry *rule.Entry, row *change.Row) bool {
	s := ask(entry, row)
	return s.something()
}

func condition(c *rule.Condition) string {
	values := make([]string, len(c.Values))
	for i, v := range c.Values {
		values[i] = "'" + strings.ReplaceAll(v, "'", "''") + "'"
	}
	list := " (" + strings.Join(values, ", ") + ")"
	switch c.Op {
	case rule.IsNull:
		return c.Column + " IS NULL"
	case rule.IsNotNull:
		return c.Column + " IS NOT NULL"
	case rule.NotIn:
		return c.Column + " NOT IN" + list
	case rule.In:
	}
	if len(values) == 1 {
		return c.Column + " = " + values[0]
	}
	return c.Column + " IN" + list
}

func identity(t *schema.Table) string {
	columns := strings.Join(t.IdentityCols, ", ")
	switch t.Identity {
	case change.IdentityFull:
		return "FULL"
	case change.IdentityNothing:
		return "NOTHING"
	case change.IdentityIndex:
		return "USING INDEX (" + columns + ")"
	case change.IdentityDefault:
	}
	return "DEFAULT (" + columns + ")"
}
