package pgload_test

import (
	"bytes"
	"fmt"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/keytext"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

// TestTags come in the statement that loads the value, whatever that has, however it is compared, and from a standby alike.
func TestTags(t *testing.T) {
	t.Parallel()
	pg := pgtest.Shared(t)
	url := pg.Database(t)
	pg.Exec(t, url, `CREATE TABLE member (user_id int8, team_id int4, kind text)`, `CREATE TABLE team (id int4 PRIMARY KEY, name text)`,
		`INSERT INTO member VALUES (1, 7, 'a"b'), (1, 7, 'a"b'), (1, 8, 'ü'), (1, NULL, 'x'), (1, 9, NULL)`,
		`INSERT INTO member SELECT 2, i, 'x' FROM generate_series(1, 256) i`, `INSERT INTO member SELECT 3, i, 'x' FROM generate_series(1, 257) i`,
		`INSERT INTO team VALUES (7, 'seven')`)
	l, err := pgload.Open(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(l.Close)
	r, err := pgload.OpenReplica(t.Context(), url)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(r.Close)
	tags := []*rule.TagQuery{
		{SQL: `SELECT team_id, kind FROM public.member WHERE user_id = $1 -- which`, From: []string{"id", "kind"}, Types: []keytext.Type{keytext.Int4, keytext.String}},
		{SQL: `SELECT team_id AS x, team_id AS x FROM public.member WHERE user_id = $1;`, From: []string{"a", "b"}, Types: []keytext.Type{keytext.Int4, keytext.Int4}},
	}
	queries := map[string]pgload.Query{
		"one":  {SQL: `SELECT count(*) AS n FROM public.member WHERE user_id = $1`, Result: rule.One},
		"none": {SQL: `SELECT user_id FROM public.member WHERE user_id = $1 AND kind = 'nobody'`, Result: rule.One},
		"many": {SQL: `SELECT team_id FROM public.member WHERE user_id = $1 ORDER BY 1`, Result: rule.Many},
		"versioned": {SQL: `SELECT team_id FROM public.member WHERE user_id = $1 ORDER BY 1`, Result: rule.Many, Version: &rule.RowVersion{
			SQL: `SELECT team_id, 'v' AS freshet_version FROM public.member WHERE user_id = $1 ORDER BY 1`, Columns: []string{"team_id"},
		}},
	}
	want := func(user string) []pgload.Tags {
		switch user {
		case "1":
			return []pgload.Tags{{Values: [][]string{{"7", `a"b`}, {"8", "ü"}}}, {Values: [][]string{{"7", "7"}, {"8", "8"}, {"9", "9"}}}}
		case "2":
			return nil
		case "3":
			return []pgload.Tags{{More: true}, {More: true}}
		}
		return []pgload.Tags{{}, {}}
	}
	for name, q := range queries {
		q.Tags = tags
		for _, user := range []string{"1", "2", "3", "4"} {
			plain, err := l.Load(t.Context(), q.SQL, q.Result, texts(user))
			if err != nil {
				t.Fatal(err)
			}
			same, err := l.LoadChanged(t.Context(), q, texts(user), pgload.Known{Digest: pgload.DigestOf(plain.Payload)})
			if err != nil || plain.Found && same.Same == pgload.Different {
				t.Errorf("%s of %s: LoadChanged = %+v, %v", name, user, same, err)
			}
			changed, err := l.LoadChanged(t.Context(), q, texts(user), pgload.Known{})
			if err != nil || !bytes.Equal(changed.Payload, plain.Payload) {
				t.Errorf("%s of %s: LoadChanged = %s, %v", name, user, changed.Payload, err)
			}
			tagged, err := l.LoadTagged(t.Context(), q, texts(user))
			if err != nil || !bytes.Equal(tagged.Payload, plain.Payload) || tagged.Coverage.IsZero() {
				t.Errorf("%s of %s: LoadTagged = %s, %v", name, user, tagged.Payload, err)
			}
			replica, err := r.LoadTagged(t.Context(), q, texts(user))
			if err != nil || !bytes.Equal(replica.Payload, plain.Payload) {
				t.Errorf("%s of %s: the replica's LoadTagged = %s, %v", name, user, replica.Payload, err)
			}
			for how, loaded := range map[string]pgload.Loaded{"the same": same, "another": changed, "load": tagged, "replica": replica} {
				if user == "2" {
					if len(loaded.Tags) != 2 || len(loaded.Tags[0].Values) != 256 || loaded.Tags[0].More {
						t.Errorf("%s of %s, %s: %d tags", name, user, how, len(loaded.Tags))
					}
					continue
				}
				if diff := cmp.Diff(want(user), loaded.Tags); diff != "" {
					t.Errorf("%s of %s, %s: tags (-want +got):\n%s", name, user, how, diff)
				}
			}
		}
	}
	q := pgload.Query{SQL: queries["one"].SQL, Result: rule.One, Tags: []*rule.TagQuery{{SQL: "SELECT nothing", From: []string{"a"}, Types: []keytext.Type{keytext.Int4}}}}
	if _, err := l.LoadTagged(t.Context(), q, texts("1")); err == nil || !strings.Contains(fmt.Sprint(err), "nothing") {
		t.Errorf("a tag query that fails: %v", err)
	}
}
