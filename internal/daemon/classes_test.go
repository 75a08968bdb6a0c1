package daemon_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/mvcc"
)

const classes = `
defaults: {ttl: 1h}
entries:
  tagged:
    key: tagged:{id}
    query: SELECT u.id, u.name, t.name AS team FROM people u JOIN teams t ON t.id = u.team_id WHERE u.id = @id
  looked:
    key: looked:{id}
    query: SELECT u.id, t.name AS team, f.name AS firm FROM people u JOIN teams t ON t.id = u.team_id JOIN firms f ON f.id = t.firm_id WHERE u.id = @id
    rules: {teams: lookup, firms: lookup}
  above:
    key: above:{team}:{floor}
    query: SELECT count(*) AS n FROM people WHERE team_id = @team AND id > @floor
  ranked:
    key: ranked:{id}
    query: SELECT place FROM (SELECT id, rank() OVER (ORDER BY score DESC, id) AS place FROM people) x WHERE id = @id
    allow_broad: [people]
`

// classTables are the tables that the entries of classes read.
func (w *world) classTables() {
	w.t.Helper()
	w.pg.Exec(w.t, w.url, `CREATE TABLE firms (id int8 PRIMARY KEY, name text)`, `CREATE TABLE teams (id int8 PRIMARY KEY, firm_id int8, name text)`,
		`CREATE TABLE people (id int8 PRIMARY KEY, team_id int8, name text, score int8)`,
		`ALTER TABLE people REPLICA IDENTITY FULL`, `ALTER TABLE teams REPLICA IDENTITY FULL`,
		`INSERT INTO firms SELECT i, 'firm ' || i FROM generate_series(1, 2) i`,
		`INSERT INTO teams SELECT i, 1 + i % 2, 'team ' || i FROM generate_series(1, 4) i`,
		`INSERT INTO people SELECT i, 1 + i % 4, 'person ' || i, i FROM generate_series(1, 12) i`)
}

// TestEveryClassIsServedFresh: entries with rules of all classes, under writers that change the ways to keys together with what is
// behind them. Whenever the store vouches for everything that was committed, what is cached is what the database has.
func TestEveryClassIsServedFresh(t *testing.T) {
	t.Parallel()
	w := newWorld(t, true)
	w.classTables()
	w.configure(classes)
	w.start()
	w.ready()
	random := rand.New(rand.NewPCG(1, 2))
	paths := map[string]string{} // to what the database answers
	for id := 1; id <= 12; id++ {
		paths[fmt.Sprintf("/v1/entries/tagged/%d", id)] = fmt.Sprintf(`SELECT row_to_json(x)::text FROM (SELECT u.id, u.name, t.name AS team FROM people u JOIN teams t ON t.id = u.team_id WHERE u.id = %d) x`, id)
		paths[fmt.Sprintf("/v1/entries/looked/%d", id)] = fmt.Sprintf(`SELECT row_to_json(x)::text FROM (SELECT u.id, t.name AS team, f.name AS firm FROM people u JOIN teams t ON t.id = u.team_id JOIN firms f ON f.id = t.firm_id WHERE u.id = %d) x`, id)
		paths[fmt.Sprintf("/v1/entries/ranked/%d", id)] = fmt.Sprintf(`SELECT row_to_json(x)::text FROM (SELECT place FROM (SELECT id, rank() OVER (ORDER BY score DESC, id) AS place FROM people) x WHERE id = %d) x`, id)
	}
	for team := 1; team <= 4; team++ {
		paths[fmt.Sprintf("/v1/entries/above/%d/5", team)] = fmt.Sprintf(`SELECT row_to_json(x)::text FROM (SELECT count(*) AS n FROM people WHERE team_id = %d AND id > 5) x`, team)
	}
	for path := range paths {
		w.until(path, func(a answer) bool { return hit(a) || a.status == http.StatusNotFound })
	}
	conn, err := pgx.Connect(t.Context(), w.url)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close(context.WithoutCancel(t.Context())) }()
	hits := 0
	for round := range 8 {
		var writing sync.WaitGroup
		for range 3 {
			seed := random.Uint64()
			writing.Go(func() { w.scatter(rand.New(rand.NewPCG(seed, 1))) })
		}
		for path := range paths { // filled and invalidated while it is written
			w.get(path)
		}
		writing.Wait()
		w.vouched(conn)
		for path, query := range paths {
			var want *string
			if err := conn.QueryRow(t.Context(), query).Scan(&want); err != nil && !errors.Is(err, pgx.ErrNoRows) {
				t.Fatal(err)
			}
			a := w.get(path)
			if a.cache == "hit" {
				hits++
			}
			if want == nil && a.status != http.StatusNotFound || want != nil && a.body != *want {
				t.Errorf("round %d: GET %s = %+v, the database has %v", round, path, a, deref(want))
			}
		}
	}
	if hits == 0 {
		t.Error("nothing was a hit: this shows nothing")
	}
	t.Logf("%d hits in 8 rounds of %d keys", hits, len(paths))
}

func deref(s *string) string {
	if s == nil {
		return "nothing"
	}
	return *s
}

// scatter commits some random transactions of one to three changes each.
func (w *world) scatter(random *rand.Rand) {
	conn, err := pgx.Connect(w.t.Context(), w.url)
	if err != nil {
		w.t.Error(err)
		return
	}
	defer func() { _ = conn.Close(context.WithoutCancel(w.t.Context())) }()
	for range 6 {
		err := pgx.BeginFunc(w.t.Context(), conn, func(tx pgx.Tx) error {
			for range 1 + random.IntN(3) {
				id, team, n := 1+random.IntN(12), 1+random.IntN(4), random.IntN(1000)
				statement := []string{
					fmt.Sprintf(`UPDATE teams SET name = 'team %d' WHERE id = %d`, n, team),
					fmt.Sprintf(`UPDATE people SET team_id = %d WHERE id = %d`, team, id),
					fmt.Sprintf(`UPDATE people SET score = %d WHERE id = %d`, n, id),
					fmt.Sprintf(`UPDATE firms SET name = 'firm %d' WHERE id = %d`, n, 1+team%2),
					fmt.Sprintf(`UPDATE teams SET firm_id = %d WHERE id = %d`, 1+n%2, team),
					fmt.Sprintf(`DELETE FROM people WHERE id = %d`, id),
					fmt.Sprintf(`INSERT INTO people VALUES (%d, %d, 'new %d', %d) ON CONFLICT DO NOTHING`, id, team, n, n),
				}[random.IntN(7)]
				if _, err := tx.Exec(w.t.Context(), statement); err != nil {
					return err
				}
			}
			return nil
		})
		var deadlock interface{ SQLState() string }
		if err != nil && (!errors.As(err, &deadlock) || deadlock.SQLState() != "40P01") {
			w.t.Error(err)
			return
		}
	}
}

// vouched waits until the store vouches for all that is committed.
func (w *world) vouched(conn *pgx.Conn) {
	w.t.Helper()
	var text string
	if err := conn.QueryRow(w.t.Context(), `SELECT pg_current_wal_lsn()::text`).Scan(&text); err != nil {
		w.t.Fatal(err)
	}
	end, err := mvcc.ParseLSN(text)
	if err != nil {
		w.t.Fatal(err)
	}
	testkit.Eventually(w.t, patience, func() error {
		var st struct {
			Regions []struct {
				Applied string `json:"applied_lsn"`
			} `json:"regions"`
		}
		a := w.get("/v1/status")
		if err := json.Unmarshal([]byte(a.body), &st); err != nil || len(st.Regions) == 0 || st.Regions[0].Applied == "" {
			return fmt.Errorf("status: %+v, %w", a, err)
		}
		if applied, err := mvcc.ParseLSN(st.Regions[0].Applied); err != nil || applied < end {
			return fmt.Errorf("applied %v, want %v, %w", applied, end, err)
		}
		return nil
	})
}
