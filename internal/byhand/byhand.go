// Package byhand invalidates what somebody names: not by deleting it, which a load that is under way would undo, but by
// saying so in the database's log. It is then applied like any other change, in its place among them, to every store.
package byhand

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/intent"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// Database writes the log.
type Database interface {
	Emit(ctx context.Context, messages []byte) (mvcc.Token, error)
}

// Store is asked what there is to be invalidated, and whether that was done.
type Store interface {
	Roster(ctx context.Context) (text []byte, found bool, err error)
	Heads(ctx context.Context) []store.LaneHead
}

// What is to be invalidated: one key, every key of an entry, every key of the entries that read a table, every key whose value is
// tied to a tag, or everything.
type What struct {
	Scope intent.Scope
	Entry string
	Args  []keytext.Arg // of the scope OfKeys: canonical, in the order of the entry's key
	Table intent.Table
	Tag   string
}

// Done says what was invalidated. It is what POST /v1/invalidate answers and `freshet invalidate --json` prints; fields are
// only ever added.
type Done struct {
	Key     string   `json:"key,omitempty"` // the only key; empty when it is all of the entries'
	Tag     string   `json:"tag,omitempty"` // only those keys of the entries whose values are tied to it; empty when it is all
	Entries []string `json:"entries"`       // whose keys are meant
	DryRun  bool     `json:"dry_run"`       // nothing was done
	Token   string   `json:"token,omitempty"`
	// Applied: whoever reads now, or later, gets nothing from before. Otherwise it is in the log, and Pending says what it waits
	// for; a read with the token has it at once.
	Applied bool   `json:"applied"`
	Pending string `json:"pending,omitempty"`
}

var (
	// ErrEntry is the error of an entry that there is not.
	ErrEntry = errors.New("there is no such entry")
	// ErrTable is the error of a table that no entry reads.
	ErrTable = errors.New("no entry reads the table")
	// ErrTag is the error of a tag that no value can be tied to.
	ErrTag = errors.New("no value is tied to the tag")
)

// Hand invalidates. All fields are needed.
type Hand struct {
	Database Database
	Store    Store
	Declared []rule.Declared // by the file
}

// look is how often the store is asked whether it was done.
const look = 20 * time.Millisecond

// ParseTable reads SCHEMA.NAME, or NAME for a table of the schema public.
func ParseTable(text string) (intent.Table, error) {
	schema, name, found := strings.Cut(text, ".")
	if !found {
		schema, name = "public", text
	}
	if schema == "" || name == "" {
		return intent.Table{}, fmt.Errorf("table %q: write it as NAME or SCHEMA.NAME, without quotes", text)
	}
	return intent.Table{Schema: schema, Name: name}, nil
}

// Invalidate invalidates, and waits until the store has it, for as long as ctx allows and no longer than patience. With dry
// it only says what would be done.
func (h *Hand) Invalidate(ctx context.Context, w *What, dry bool, patience time.Duration) (*Done, error) {
	roster, trouble := h.roster(ctx)
	done, err := h.meant(roster, w)
	if err != nil || dry {
		if done != nil {
			done.DryRun = dry
		}
		return done, err
	}
	messages, err := spell(w)
	if err != nil {
		return nil, err
	}
	token, err := h.Database.Emit(ctx, messages)
	if err != nil {
		return nil, err
	}
	done.Token = token.String()
	if trouble != "" {
		patience = 0 // nobody is about to apply it
	}
	if done.Pending = h.wait(ctx, token, patience); done.Pending != "" {
		done.Pending = cmp.Or(trouble, done.Pending)
	}
	done.Applied = done.Pending == ""
	return done, nil
}

// roster is what readers obey, nil when there is none to be had, for the reason given.
func (h *Hand) roster(ctx context.Context) (roster *rule.Roster, trouble string) {
	text, found, err := h.Store.Roster(ctx)
	switch {
	case err != nil:
		return nil, fmt.Sprintf("the store does not say which entries there are: %v", err)
	case !found:
		return nil, "no daemon has published which entries there are; nothing of them is cached"
	}
	if roster, err = rule.ParseRoster(text); err != nil {
		return nil, err.Error()
	}
	return roster, ""
}

// meant says what of the entries is meant. Without a roster it is not known which of them read a table.
func (h *Hand) meant(roster *rule.Roster, w *What) (*Done, error) {
	templates, readers, tagged := map[string]string{}, map[intent.Table][]string{}, map[string]bool{}
	for i := range h.Declared {
		templates[h.Declared[i].Name] = h.Declared[i].Key
		if h.Declared[i].Tags != "" {
			tagged[h.Declared[i].Name] = true
		}
	}
	if roster != nil {
		for e := range roster.Versions() {
			if _, declared := templates[e.Name]; !declared {
				templates[e.Name] = e.Key
			}
			if e.Tags != "" {
				tagged[e.Name] = true
			}
			for i := range e.Rules {
				t := intent.Table{Schema: e.Rules[i].Schema, Name: e.Rules[i].Table}
				if !slices.Contains(readers[t], e.Name) {
					readers[t] = append(readers[t], e.Name)
				}
			}
		}
	}
	names := slices.Sorted(maps.Keys(templates))
	switch w.Scope {
	case intent.OfKeys, intent.OfEntry:
	case intent.Everything:
		return &Done{Entries: names}, nil
	case intent.OfTags:
		if err := rule.CheckTag(w.Tag); err != nil {
			return nil, fmt.Errorf("%w: %w", ErrTag, err)
		}
		if len(tagged) == 0 {
			return nil, fmt.Errorf("%w: no entry has tags: by_hand", ErrTag)
		}
		return &Done{Tag: w.Tag, Entries: slices.Sorted(maps.Keys(tagged))}, nil
	case intent.OfTable:
		if roster != nil && len(readers[w.Table]) == 0 {
			return nil, fmt.Errorf("%w: %s.%s; those that are read: %s", ErrTable, w.Table.Schema, w.Table.Name, tables(readers))
		}
		return &Done{Entries: append([]string{}, slices.Sorted(slices.Values(readers[w.Table]))...)}, nil
	}
	key, found := templates[w.Entry]
	if !found {
		return nil, fmt.Errorf("%w: %q; there are: %s", ErrEntry, w.Entry, strings.Join(names, ", "))
	}
	done := &Done{Entries: []string{w.Entry}}
	if w.Scope == intent.OfKeys {
		template, err := rule.ParseTemplate(key)
		if err != nil {
			return nil, fmt.Errorf("entry %s: %w", w.Entry, err)
		}
		done.Key = string(template.Append(nil, w.Args))
	}
	return done, nil
}

func tables(readers map[intent.Table][]string) string {
	var names []string
	for t := range readers {
		names = append(names, t.Schema+"."+t.Name)
	}
	slices.Sort(names)
	return strings.Join(names, ", ")
}

// spell is a JSON array of the messages.
func spell(w *What) ([]byte, error) {
	var (
		all []json.RawMessage
		one json.RawMessage
		err error
	)
	switch w.Scope {
	case intent.OfKeys:
		all, err = intent.Messages(w.Entry, [][]keytext.Arg{w.Args})
	case intent.OfEntry:
		one, err = intent.Whole(w.Entry)
	case intent.OfTable:
		one, err = intent.Reading(w.Table)
	case intent.OfTags:
		one, err = intent.Tagged(w.Tag)
	default:
		one = intent.All()
	}
	if err != nil {
		return nil, fmt.Errorf("spell the intent: %w", err)
	}
	if one != nil {
		all = append(all, one)
	}
	return json.Marshal(all)
}

// wait waits until every lane of the store has applied a transaction, and says what is amiss when that takes too long.
func (h *Hand) wait(ctx context.Context, token mvcc.Token, patience time.Duration) (pending string) {
	end := time.NewTimer(patience)
	defer end.Stop()
	ticker := time.NewTicker(look)
	defer ticker.Stop()
	for {
		if pending = applied(h.Store.Heads(ctx), token); pending == "" {
			return ""
		}
		select {
		case <-ticker.C:
		case <-end.C:
			return pending
		case <-ctx.Done():
			return pending
		}
	}
}

func applied(heads []store.LaneHead, token mvcc.Token) (pending string) {
	for i := range heads {
		switch h := &heads[i]; {
		case h.Err != nil:
			return fmt.Sprintf("the store does not answer: %v", h.Err)
		case !h.Found:
			return "the store has no HEAD: no daemon follows the log into it"
		case h.Head.System != token.System || h.Head.Timeline != token.Timeline:
			return "the daemon follows another server's log than the one that was written: " + h.Head.System
		case !fence.Contains(&h.Head, fence.Coverage{}, token):
			return "the daemon has not applied it yet; one that is stopped does when it starts"
		}
	}
	return ""
}
