package daemon_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/internal/testkit"
)

// laterClasses are the entries of classes as a later file has them: each query returns more, its tables stand in another order,
// so that its rules and epochs have other numbers, and one finds its keys in another way.
const laterClasses = `
defaults: {ttl: 1h}
entries:
  tagged:
    key: tagged:{id}
    query: SELECT t.id AS number, t.name AS team, u.id, u.name FROM teams t JOIN people u ON t.id = u.team_id WHERE u.id = @id
  looked:
    key: looked:{id}
    query: SELECT f.name AS firm, t.name AS team, u.name FROM firms f JOIN teams t ON f.id = t.firm_id JOIN people u ON t.id = u.team_id WHERE u.id = @id
  above:
    key: above:{team}:{floor}
    query: SELECT count(*) AS n, min(score) AS least FROM people WHERE team_id = @team AND id > @floor
  ranked:
    key: ranked:{id}
    query: SELECT id, place FROM (SELECT id, rank() OVER (ORDER BY score DESC, id) AS place FROM people) x WHERE id = @id
    allow_broad: [people]
`

type above struct {
	Team  int64
	Floor int64
}

// classLibrary is a process that reads entries of all classes under a file of its own.
type classLibrary struct {
	name   string
	cache  *freshet.Cache
	byID   map[string]*freshet.Typed[int64, json.RawMessage]
	byTeam *freshet.Typed[above, json.RawMessage]
	truth  map[string]string // to a read's name, the query with its arguments
	reads  map[string]func(ctx context.Context) (json.RawMessage, error)
}

func (w *world) classLibrary(name, file, text string) *classLibrary {
	w.t.Helper()
	cache, err := freshet.Open(w.t.Context(), freshet.Options{Config: file, Logger: slog.New(slog.DiscardHandler)})
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(cache.Close)
	l := &classLibrary{
		name: name, cache: cache, byID: map[string]*freshet.Typed[int64, json.RawMessage]{}, truth: map[string]string{},
		reads: map[string]func(ctx context.Context) (json.RawMessage, error){},
	}
	queries := map[string]string{}
	entry := ""
	for line := range strings.SplitSeq(text, "\n") {
		switch head, query, found := strings.Cut(line, "query: "); {
		case found:
			queries[entry] = query
		case strings.HasPrefix(line, "  ") && !strings.HasPrefix(line, "   "):
			entry = strings.Trim(head, " :")
		}
	}
	row := func(query string) string { return "SELECT row_to_json(x)::text FROM (" + query + ") x" }
	for _, entry := range []string{"tagged", "looked", "ranked"} {
		typed, err := freshet.Entry[int64, json.RawMessage](cache, entry)
		if err != nil {
			w.t.Fatal(err)
		}
		for id := int64(1); id <= 12; id++ {
			read := fmt.Sprintf("%s %d", entry, id)
			l.truth[read] = row(strings.ReplaceAll(queries[entry], "@id", strconv.FormatInt(id, 10)))
			l.reads[read] = func(ctx context.Context) (json.RawMessage, error) { return typed.Get(ctx, id) }
		}
	}
	if l.byTeam, err = freshet.Entry[above, json.RawMessage](cache, "above"); err != nil {
		w.t.Fatal(err)
	}
	for team := int64(1); team <= 4; team++ {
		read := fmt.Sprintf("above %d", team)
		l.truth[read] = row(strings.NewReplacer("@team", strconv.FormatInt(team, 10), "@floor", "5").Replace(queries["above"]))
		l.reads[read] = func(ctx context.Context) (json.RawMessage, error) {
			return l.byTeam.Get(ctx, above{Team: team, Floor: 5})
		}
	}
	return l
}

// warm reads everything until all of it is cached.
func (l *classLibrary) warm(t *testing.T) {
	t.Helper()
	testkit.Eventually(t, patience, func() error {
		before := l.cache.Stats().Hits
		for read, get := range l.reads {
			if _, err := get(t.Context()); err != nil && !errors.Is(err, freshet.ErrNotFound) {
				return fmt.Errorf("library %s reads %s: %w", l.name, read, err)
			}
		}
		if hits := l.cache.Stats().Hits - before; hits != uint64(len(l.reads)) {
			return fmt.Errorf("library %s: of %d reads %d are hits; %+v", l.name, len(l.reads), hits, l.cache.Stats())
		}
		return nil
	})
}

// compare holds what the library reads against what the database has.
func (l *classLibrary) compare(t *testing.T, conn *pgx.Conn, when string) {
	t.Helper()
	for read, query := range l.truth {
		var want *string
		if err := conn.QueryRow(t.Context(), query).Scan(&want); err != nil && !errors.Is(err, pgx.ErrNoRows) {
			t.Fatal(err)
		}
		got, err := l.reads[read](t.Context())
		if missing := errors.Is(err, freshet.ErrNotFound); err != nil && !missing || (want == nil) != missing || want != nil && !bytes.Equal(got, []byte(*want)) {
			t.Errorf("%s: library %s reads %s = %s, %v; the database has %s", when, l.name, read, got, err, deref(want))
		}
	}
}

// TestRollingDeployOfEveryClass deploys other queries of entries with rules of all classes, forth and back, under writers.
// Libraries of both files live side by side, and each has values whose epochs, tags and look-ups are those of its own version.
func TestRollingDeployOfEveryClass(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.classTables()
	patient := strings.NewReplacer("{ttl: 1h}", "{ttl: 1h, load_timeout: 20s}") // what is asked here is what they read, not how soon
	w.configure(patient.Replace(classes))
	before := w.file
	w.rewrite(patient.Replace(laterClasses))
	after := w.file
	w.file = before
	run := w.start()
	w.ready()
	older, newer := w.classLibrary("old", before, classes), w.classLibrary("new", after, laterClasses)
	older.warm(t)
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	random := rand.New(rand.NewPCG(3, 4))
	for _, file := range []string{after, before} {
		if err := run.stop(); err != nil {
			t.Fatal(err)
		}
		w.file = file
		run = w.start()
		w.ready()
		older.warm(t)
		newer.warm(t)
		for round := range 3 {
			var writing sync.WaitGroup
			for range 3 {
				seed := random.Uint64()
				writing.Go(func() { w.scatter(rand.New(rand.NewPCG(seed, 1))) })
			}
			for _, l := range []*classLibrary{older, newer} { // filled and invalidated while it is written
				for _, get := range l.reads {
					_, _ = get(t.Context())
				}
			}
			writing.Wait()
			w.vouched(conn)
			for _, l := range []*classLibrary{older, newer} {
				l.compare(t, conn, fmt.Sprintf("file %s, round %d", file, round))
			}
		}
		older.warm(t)
		newer.warm(t)
	}
}
