package history

import (
	"strconv"
	"strings"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit"
)

// roster is the one that the present master has.
type roster struct{ *rule.Roster }

func (w *world) roster() roster {
	w.t.Helper()
	var text []byte
	testkit.Eventually(w.t, patience, func() (err error) { // one that is lost is published again
		text, err = w.redis.Ask(w.t, "GET", "f:"+namespace+":roster").AsBytes()
		return err
	})
	r, err := rule.ParseRoster(text)
	if err != nil {
		w.t.Fatal(err)
	}
	return roster{r}
}

// name is the live name of a key.
func (r roster) name(entry string, id int64) string {
	return rule.KeyPrefix(namespace, r.Generation, r.Entries[entry]) + entry + ":" + strconv.FormatInt(id, 10)
}

// key says which key a live name is of.
func (r roster) key(name string) (entry string, id int64, ok bool) {
	for entry, e := range r.Entries {
		if rest, ok := strings.CutPrefix(name, rule.KeyPrefix(namespace, r.Generation, e)+entry+":"); ok && e.Suspended == "" {
			id, err := strconv.ParseInt(rest, 10, 64)
			return entry, id, err == nil
		}
	}
	return "", 0, false
}

// records are the names of all records of the present master.
func (w *world) records() []string {
	w.t.Helper()
	names, err := w.redis.Ask(w.t, "KEYS", "f:"+namespace+":*:*").AsStrSlice()
	if err != nil {
		w.t.Fatal(err)
	}
	return names
}

// values are those of the records, by name, that have a live one.
func (w *world) values(names ...string) map[string]fence.Record {
	w.t.Helper()
	live := map[string]fence.Record{}
	if len(names) == 0 {
		return live
	}
	texts, err := w.redis.Ask(w.t, append([]string{"MGET"}, names...)...).ToArray()
	if err != nil {
		w.t.Fatal(err)
	}
	for i, text := range texts {
		raw, err := text.AsBytes()
		if err != nil {
			continue // gone meanwhile
		}
		record, err := fence.ParseRecord(raw)
		if err != nil {
			w.t.Fatalf("%s: %v", names[i], err)
		}
		if record.State.Live() {
			live[names[i]] = record
		}
	}
	return live
}

// cached reports whether the record has a live value.
func (w *world) cached(name string) bool {
	w.t.Helper()
	return len(w.values(name)) == 1
}
