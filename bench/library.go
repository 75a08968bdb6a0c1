package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/rule"
)

// slowTable is the entry whose value is loaded by code that takes its time.
const slowTable = "slow"

// item is a value as the application sees it.
type item struct {
	ID int    `json:"id"`
	V  string `json:"v"`
	N  int    `json:"n"`
}

// configuration writes the file that both sides of the library's measurements read.
func (s *subject) configuration(dir string) (string, error) {
	size := "off"
	if s.namespace == memoryPart {
		size = "64MiB"
	}
	text := fmt.Sprintf(`namespace: %s
database: {url: %q}
source: {postgres: {slot: %s}}
regions: [{name: local, redis: {url: %q}}]
l1: {size: %s}
entries:
  %s:
    key: %s:{id}
    query: SELECT id, v, n FROM items WHERE id = @id
  %s:
    key: %s:{id}
    depends_on:
      - {table: items, key: "{id}"}
  %s:
    key: %s:{id}
    depends_on: []
%s`, s.namespace, s.url, s.slot, s.b.servers.redis.URL(), size, table, table, slowTable, slowTable, intentEntry, intentEntry, s.more)
	path := filepath.Join(dir, "freshet.yaml")
	return path, os.WriteFile(path, []byte(text), 0o600) //nolint:gosec // a folder of the benchmark's own
}

// planned is what planning the file's entries comes to. The planner itself is left out of this program: it would bring
// a SQL parser in C with it.
func planned(path string) ([]*rule.Entry, error) {
	file, err := config.Load(path, os.LookupEnv)
	if err != nil {
		return nil, err
	}
	var entries []*rule.Entry
	for _, d := range file.Declared() {
		e := &rule.Entry{
			Name: d.Name, Definition: d.Digest(), Key: d.Key, Params: []rule.Param{{Name: "id", Type: keytext.Int4}},
			Result: d.Result, Rules: []rule.Rule{{Schema: "public", Table: table, Bind: []string{"id"}}},
		}
		if d.Query == "" && len(d.DependsOn) == 0 {
			e.Params[0].Type, e.Rules = keytext.Unknown, []rule.Rule{}
		}
		if d.Query != "" {
			of := table
			if strings.HasPrefix(d.Name, pageTable) {
				of = pageTable
			}
			e.SQL, e.Rules[0].Table = "SELECT id, v, n FROM public."+of+" WHERE id = $1", of
			e.RowVersion = plannedVersion(d.Name, of)
			e.Batch = &rule.Batch{SQL: "SELECT id, v, n FROM public." + of + " WHERE id = freshet_k.p1", Types: []string{"int4"}}
		}
		e.Version = e.Hash()
		entries = append(entries, e)
	}
	return entries, nil
}

// plannedVersion is the row version of an entry that conditional reads are measured on.
func plannedVersion(name, of string) *rule.RowVersion {
	columns := []string{"id", "v", "n"}
	switch {
	case strings.HasSuffix(name, declaredEntry):
		return &rule.RowVersion{SQL: "SELECT id, v, n, (SELECT n::text) AS freshet_version FROM public." + of + " WHERE id = $1", Columns: columns}
	case strings.HasSuffix(name, rowsEntry):
		return &rule.RowVersion{
			SQL: fmt.Sprintf(`SELECT id, v, n, CASE WHEN %[1]s.ctid IS NULL THEN '-' WHEN %[1]s.tableoid = 'public.%[1]s'::regclass
				THEN (%[1]s.ctid::text || '/') || %[1]s.xmin::text END AS freshet_version, ARRAY[%[1]s.xmin::text::int8] AS freshet_xids
				FROM public.%[1]s WHERE id = $1`, of),
			Columns: columns, Tables: []string{"public." + of},
		}
	}
	return nil
}

// application is a process that uses the library, beside the daemon's main loop.
type application struct {
	*subject
	daemon *child
	cache  *freshet.Cache
	items  *freshet.Typed[int, item]
	dir    string
	file   string
}

// newApplication makes one. more are entries that its part needs besides: what they are not needed for they would slow down, since each has a key
// of every row.
func newApplication(ctx context.Context, b *bench, name string, more ...string) (*application, error) {
	s, err := newSubject(ctx, b, name, probeRows)
	if err != nil {
		return nil, err
	}
	s.more = strings.Join(more, "")
	dir, err := os.MkdirTemp("", "freshet-bench-")
	if err != nil {
		s.close()
		return nil, err
	}
	a := &application{subject: s, dir: dir}
	if err := a.open(ctx); err != nil {
		a.close()
		return nil, err
	}
	return a, nil
}

func (a *application) open(ctx context.Context) error {
	var err error
	if a.file, err = a.configuration(a.dir); err != nil {
		return err
	}
	if a.daemon, err = a.follower(ctx, job{Slot: a.slot, Config: a.file}); err != nil {
		return err
	}
	if err := a.daemon.says(ctx, live); err != nil {
		return err
	}
	if a.cache, err = freshet.Open(ctx, freshet.Options{Config: a.file}); err != nil {
		return err
	}
	a.items, err = freshet.Entry[int, item](a.cache, table)
	return err
}

func (a *application) close() {
	if a.cache != nil {
		a.cache.Close()
	}
	if a.daemon != nil {
		_ = a.daemon.stop()
	}
	a.subject.close()
	_ = os.RemoveAll(a.dir) //nolint:gosec // a temporary folder of our own
}
