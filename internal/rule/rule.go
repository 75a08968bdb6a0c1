// Package rule holds what planning produces and everyone else consumes: which changed rows affect which keys of an
// entry, the canonical SQL that loads it, and the roster, in which the daemon publishes both. It needs no SQL parser,
// so that applications do not link one.
package rule

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"slices"

	"github.com/freshet/freshet/internal/keytext"
)

// Result says what an entry's query yields.
type Result string

// The results of an entry.
const (
	One  Result = "one"  // an object, or "no such row"
	Many Result = "many" // an array, empty when there is none
)

// Declared is an entry as the configuration file declares it: the part that decides what its cached values mean.
// TTLs are not in it, so that changing one keeps the cached values.
type Declared struct {
	Name   string `json:"name"`
	Key    string `json:"key"`
	Query  string `json:"query,omitempty"`
	Result Result `json:"result"`
	// DependsOn is for values that code loads. Empty, and not nil: no table affects them, only their writers' intents. The
	// JSON leaves that out, as it does nil, so that the digest is what it always was; UnmarshalJSON tells them apart.
	DependsOn    []Dependency `json:"depends_on,omitempty"`
	UnsafeIgnore []string     `json:"unsafe_ignore,omitempty"`
	RowVersion   string       `json:"row_version,omitempty"` // of a query: what conditional reads compare; empty: what freshet finds by itself
	// Rules is how changes of a table find their keys, where the file says so: tags, lookup or broad.
	Rules map[string]string `json:"rules,omitempty"`
	// AllowBroad are the tables whose every change may drop every key.
	AllowBroad []string `json:"allow_broad,omitempty"`
	// DependsOnTime permits what the clock says in the query. For how long a value may be kept then is no part of the plan.
	DependsOnTime bool `json:"depends_on_time,omitempty"`
	// Functions are those of users that the query may call, with the tables that each reads.
	Functions map[string][]string `json:"functions,omitempty"`
	// Tags is TagsByHand where the code that loads the values ties them to tags.
	Tags string `json:"tags,omitempty"`
	// Covers is CoversNone where that code reads elsewhere than in the database.
	Covers string `json:"covers,omitempty"`
}

// UnmarshalJSON reads a declaration out of a roster. One without a query is loaded by code, so that it has depends_on: where
// the text leaves that out, it is the empty list. Nothing is planned from a declaration that has neither.
func (d *Declared) UnmarshalJSON(text []byte) error {
	type plain Declared // without this method
	if err := json.Unmarshal(text, (*plain)(d)); err != nil {
		return err
	}
	if d.Query == "" && d.DependsOn == nil {
		d.DependsOn = []Dependency{}
	}
	return nil
}

// Dependency is one line of depends_on: changes of a row of Table affect the key that Key spells with its columns.
type Dependency struct {
	Table string `json:"table"`
	Key   string `json:"key"` // placeholders are columns; the n-th stands for the n-th parameter of the entry's key
}

// Digest identifies the definition: a library whose file declares the entry differently from the daemon's has another
// digest, and then neither reads nor fills its keys. 16 hexadecimal digits.
func (d *Declared) Digest() string { return digest(d) }

func digest(v any) string {
	text, err := json.Marshal(v)
	if err != nil {
		panic(fmt.Sprintf("rule: marshal %T: %v", v, err)) // strings and numbers only: cannot happen
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:8])
}

// Param is a parameter of an entry, in the order of the key template, which is also the order of $1, $2 in its SQL.
type Param struct {
	Name string       `json:"name"`
	Type keytext.Type `json:"type"`
}

// Entry is a compiled entry: one kind of cached thing under its live name.
type Entry struct {
	Name       string  `json:"name"`
	Definition string  `json:"definition"` // Declared.Digest
	Version    string  `json:"version"`    // hash of the compiled plan, 16 hexadecimal digits
	Activation string  `json:"activation"` // drawn at random whenever the roster makes the version live
	Key        string  `json:"key"`        // template
	Params     []Param `json:"params"`
	SQL        string  `json:"sql,omitempty"` // canonical: schema-qualified, $n, unique output names; empty when code loads the entry
	Result     Result  `json:"result"`
	Rules      []Rule  `json:"rules"`
	// Tags is TagsByHand where values are tied to the tags that the code which loads them gives.
	Tags string `json:"tags,omitempty"`
	// Views are those that the query reads through. Replacing one puts nothing into the log.
	Views []View `json:"views,omitempty"`
	// Functions are those of users that the query calls, as schema.name. Replacing one puts nothing into the log.
	Functions []string `json:"functions,omitempty"`
	// RowVersion is what conditional reads compare; nil: the bytes, by a digest.
	RowVersion *RowVersion `json:"row_version,omitempty"`
	// Batch is how one statement loads many keys; nil: each has one of its own.
	Batch *Batch `json:"batch,omitempty"`
	// Shape is a digest of what the catalog said of the tables and columns that the query reads. It makes the version
	// change with the schema: altering a column's type, or swapping a table by renaming, puts no row into the log.
	Shape string `json:"shape,omitempty"`
	// Content is a digest of where the database keeps the rows of the entry's tables and of how it reads their values. DDL
	// that changes it leaves no row in the log, so the entry then gets another name; the plan is the same.
	Content string `json:"content,omitempty"`
	// Suspended says why the entry is out of the cache at present; readers load it from the database. Empty: live.
	Suspended string `json:"suspended,omitempty"`
	// Declared is what the version was planned from, so that a daemon whose own file declares the entry otherwise, or not
	// at all, can plan it again (D7). Nil in rosters of daemons that did not do so.
	Declared *Declared `json:"declared,omitempty"`
	// Keep is how long its values stay cached at most, in milliseconds.
	Keep int64 `json:"keep,omitempty"`
	// Retained is since when no file of a daemon declares the version, in microseconds since 1970; 0: one does. It is
	// served for as long as libraries register that they use it.
	Retained int64 `json:"retained,omitempty"`
}

// Hash computes the Version: it changes with anything that could change what a cached value means. A row version that is
// declared is in Definition; a physical one, and the form for many keys, follow from the SQL.
func (e *Entry) Hash() string {
	plain := *e
	plain.Version, plain.Activation, plain.Content, plain.Suspended = "", "", "", ""
	plain.Declared, plain.Keep, plain.Retained, plain.RowVersion, plain.Batch = nil, 0, 0, nil, nil
	return digest(&plain)
}

// View is a view that a query names, or that is in another view's definition.
type View struct {
	Schema string `json:"schema"`
	Name   string `json:"name"`
}

// Class says how the keys that a changed row affects are found.
type Class string

// The classes of rules, from the most precise one on. Values of an entry with rules of the classes TAG, GROUP and BROAD are
// tied to epochs.
const (
	Exact  Class = "EXACT"  // from the row itself, old and new
	Tag    Class = "TAG"    // through other tables, by what was noted when the value was filled
	Lookup Class = "LOOKUP" // through other tables, which are asked when the row has changed
	Group  Class = "GROUP"  // all keys that have some parameters in common
	Broad  Class = "BROAD"  // all keys
)

// Rule says: a changed row of Table affects the key whose n-th parameter is the row's column Bind[n]. It applies to
// the old image and to the new one alike (class EXACT: no database access, no stored state).
type Rule struct {
	Schema string `json:"schema"`
	Table  string `json:"table"`
	// Occurrence names the table's alias in the query, for explain.
	Occurrence string   `json:"occurrence,omitempty"`
	Bind       []string `json:"bind"`
	// Fixed has, for each parameter that is no column of the row, the argument that it must be: a constant with which the
	// query compares it, or NULL. Bind is empty there. Nil: every parameter is a column.
	Fixed []*keytext.Arg `json:"fixed,omitempty"`
	// Class is empty for EXACT. Under GROUP and BROAD Bind is empty for the parameters that may be anything, and under
	// LOOKUP for those that Lookup finds.
	Class  Class        `json:"class,omitempty"`
	Lookup *LookupQuery `json:"lookup,omitempty"`
	Tag    *TagQuery    `json:"tag,omitempty"`
	// Columns are those that the query reads of this occurrence, sorted. An UPDATE with a full old image that changes
	// none of them is ignored. Empty means all.
	Columns []string `json:"columns,omitempty"`
	// Where are the constant predicates that a row must satisfy to matter. An image for which one is known not to be
	// TRUE is skipped; one that cannot be judged is not.
	Where []Condition `json:"where,omitempty"`
}

// LookupQuery is the query that finds the keys which a LOOKUP rule means: it takes, for each column of From, an array of the
// texts that changed rows have there, and yields the texts of the parameters; NULL for those that are fixed.
type LookupQuery struct {
	SQL  string   `json:"sql"`
	From []string `json:"from"`
	// Types are those of the texts, as of parameters.
	Types []keytext.Type `json:"types"`
	// Rank is how many tables the way to the keys has. What is looked up for a transaction is complete only once, so many
	// times over, every transaction is applied that was visible to the look-up.
	Rank int `json:"rank"`
}

// TagQuery finds, for the parameters $1..$n of the entry, the join values through which rows of the rule's table reach a
// value, with or without such rows: as texts, one column per column of From.
type TagQuery struct {
	SQL   string         `json:"sql"`
	From  []string       `json:"from"`
	Types []keytext.Type `json:"types"`
	Rank  int            `json:"rank"`
}

// Comparison is the operator of a Condition.
type Comparison string

// The comparisons that route can judge on the log's text.
const (
	In        Comparison = "in"       // equal to one of Values; = is In with one value
	NotIn     Comparison = "not in"   // different from each of Values; <> is NotIn with one value
	IsNull    Comparison = "is null"  //
	IsNotNull Comparison = "not null" //
)

// Condition is a constant predicate on one column. Values are canonical texts of Type.
type Condition struct {
	Column string       `json:"column"`
	Op     Comparison   `json:"op"`
	Type   keytext.Type `json:"type,omitempty"`
	Values []string     `json:"values,omitempty"`
}

// Needs lists the columns whose old values the rule needs: those that it binds, and those that it looks keys up by.
// Without them a DELETE, or an UPDATE that changes one, cannot be mapped to a key.
func (r *Rule) Needs() []string {
	needs := slices.DeleteFunc(slices.Clone(r.Bind), func(column string) bool { return column == "" })
	var through []string
	if r.Lookup != nil {
		through = r.Lookup.From
	}
	if r.Tag != nil {
		through = append(slices.Clip(through), r.Tag.From...)
	}
	for _, column := range through {
		if !slices.Contains(needs, column) {
			needs = append(needs, column)
		}
	}
	return needs
}

// Roster is the only source of live names: the daemon writes it, readers obey it. Its layout is in docs/redis.md.
type Roster struct {
	Format     int               `json:"format"`
	Generation string            `json:"generation"` // 16 hexadecimal digits, random
	Term       string            `json:"term"`
	Revision   uint64            `json:"revision"`
	Lanes      int               `json:"lanes,omitempty"`    // that a cluster's keys are kept in; 0: there is one server
	Database   *Database         `json:"database,omitempty"` // whose log is followed; nil: the daemon is an older one, which did not say
	Entries    map[string]*Entry `json:"entries"`
	// Retained are further versions of entries, which only libraries with another file than the daemon's use (D7).
	Retained []*Entry `json:"retained,omitempty"`
}

// Database is one database of a PostgreSQL cluster. All of them share a system identifier, a timeline, and transaction ids.
type Database struct {
	OID  uint32 `json:"oid"`  // stays what it is when the database is renamed, and is the same on standbys
	Name string `json:"name"` // for people
}

// Other reports that both are known, and are not the same.
func (d Database) Other(e Database) bool { return d.OID != 0 && e.OID != 0 && d.OID != e.OID }

// String is how messages name it.
func (d Database) String() string { return fmt.Sprintf("%q (oid %d)", d.Name, d.OID) }

// The layouts of a roster. A layout is another one when whoever passes over the fields that it does not know would be
// misled; Retained is not such a field: who does not know it finds one version of each entry, which is its own or is not.
// Whoever does not know of epochs would store values that no change takes out of use.
const (
	RosterFormat       = 1
	RosterFormatEpochs = 2 // RosterFormat, with entries of which values are tied to epochs
)

// ErrFormat is wrapped by the error of a roster in a format that is none of these.
var ErrFormat = errors.New("this program does not know the roster's format")

// ParseRoster reads a roster as the store holds it.
func ParseRoster(text []byte) (*Roster, error) {
	var r Roster
	if err := json.Unmarshal(text, &r); err != nil {
		return nil, fmt.Errorf("parse roster: %w", err)
	}
	if r.Format != RosterFormat && r.Format != RosterFormatEpochs {
		return nil, fmt.Errorf("parse roster: format %d, not %d or %d: %w", r.Format, RosterFormat, RosterFormatEpochs, ErrFormat)
	}
	return &r, nil
}

// Text is the roster as the store holds it, in the layout that says what is in it.
func (r *Roster) Text() []byte {
	written := *r
	if written.Format == RosterFormat {
		for e := range r.Versions() {
			if e.Tied() {
				written.Format = RosterFormatEpochs
			}
		}
	}
	text, err := json.Marshal(&written)
	if err != nil {
		panic(fmt.Sprintf("rule: marshal roster: %v", err)) // strings and numbers only: cannot happen
	}
	return text
}

// Version finds the version of an entry that was planned from the declaration with this digest, nil when there is none.
func (r *Roster) Version(name, definition string) *Entry {
	if e := r.Entries[name]; e != nil && e.Definition == definition {
		return e
	}
	for _, e := range r.Retained {
		if e.Name == name && e.Definition == definition {
			return e
		}
	}
	return nil
}

// Versions yields every version of every entry: each has a name of its own in the store.
func (r *Roster) Versions() iter.Seq[*Entry] {
	return func(yield func(*Entry) bool) {
		for _, e := range r.Entries {
			if !yield(e) {
				return
			}
		}
		for _, e := range r.Retained {
			if !yield(e) {
				return
			}
		}
	}
}

// KeyPrefix is what every key of a live entry starts with in the store:
// f:<namespace>:<generation>:<entry>.<version>.<activation>:
func KeyPrefix(namespace, generation string, e *Entry) string {
	return "f:" + namespace + ":" + generation + ":" + KeyTail(e)
}

// KeyTail is the part of a KeyPrefix that the entry gives.
func KeyTail(e *Entry) string { return e.Name + "." + e.Version + "." + e.Activation + ":" }
