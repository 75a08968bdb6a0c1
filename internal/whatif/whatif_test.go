package whatif_test

import (
	"errors"
	"flag"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/freshet/freshet/internal/plan"
	"github.com/freshet/freshet/internal/rule"
	"github.com/freshet/freshet/internal/schema"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/plantest"
	"github.com/freshet/freshet/internal/whatif"
)

func TestMain(m *testing.M) { testkit.Main(m) }

var update = flag.Bool("update", false, "write the answers into testdata/events.txt; read the difference before committing it")

// entries are planned against the schema that the planner's cases have.
func entries(tb testing.TB) (*schema.Catalog, []*rule.Entry) {
	tb.Helper()
	catalog, err := plantest.ReadCatalog(filepath.Join("..", "plan", "testdata", "shop"))
	if err != nil {
		tb.Fatal(err)
	}
	var all []*rule.Entry
	for _, d := range []rule.Declared{
		{Name: "active_user", Key: "user:{id}", Query: "SELECT name FROM users WHERE id = @id AND active AND deleted_at IS NULL"},
		{Name: "orders", Key: "orders:{user}:{status}", Query: "SELECT id FROM orders WHERE user_id = @user AND status = @status ORDER BY id", Result: rule.Many},
		{Name: "reports", Key: "reports:{boss}", Query: "SELECT p.name, m.name AS boss FROM people p JOIN people m ON m.id = p.manager_id WHERE m.id = @boss ORDER BY p.id", Result: rule.Many},
		{Name: "teams", Key: "user:{id}:teams", Query: "SELECT t.name FROM memberships m JOIN teams t ON t.id = m.team_id WHERE m.user_id = @id AND NOT t.archived ORDER BY t.id", Result: rule.Many},
		{Name: "address", Key: "address:{id}", Query: `SELECT city, "zip Code" FROM addresses WHERE id = @id`},
		{Name: "item", Key: "item:{id}", Query: "SELECT amount FROM stock.items WHERE id = @id"},
		{Name: "events", Key: "events:{id}", Query: "SELECT day, note FROM events WHERE id = @id ORDER BY day", Result: rule.Many},
		{Name: "rank", Key: "rank:{id}", Query: "SELECT r FROM (SELECT id, rank() OVER (ORDER BY name, id) AS r FROM people) x WHERE id = @id", AllowBroad: []string{"people"}},
		{Name: "looked", Key: "user:{id}:looked", Query: "SELECT t.name FROM memberships m JOIN teams t ON t.id = m.team_id WHERE m.user_id = @id AND NOT t.archived ORDER BY t.id", Result: rule.Many, Rules: map[string]string{"teams": "lookup"}},
		{Name: "near", Key: "near:{user}:{region}", Query: "SELECT id FROM orders WHERE user_id = @user AND region < @region ORDER BY id", Result: rule.Many},
	} {
		if d.Result == "" {
			d.Result = rule.One
		}
		compiled, err := plan.Compile(catalog, d, plan.Served()...)
		if err != nil {
			tb.Fatal(err)
		}
		all = append(all, compiled.Entry)
	}
	return catalog, all
}

// answer is what explain --event prints, on stdout or after Error: and Try:.
func answer(catalog *schema.Catalog, all []*rule.Entry, text string) string {
	event, err := whatif.Parse(text)
	var a *whatif.Answer
	if err == nil {
		a, err = event.Answer(whatif.Options{
			Catalog: catalog, Entries: all,
			Text: func(c *schema.Column, text string) (string, error) {
				if c.Type == "bigint" && strings.Trim(text, "-0123456789") != "" {
					return "", errors.New(`invalid input syntax for type bigint: "` + text + `"`)
				}
				return text, nil
			},
		})
	}
	if wrong, ok := errors.AsType[*whatif.Error](err); ok {
		return "Error: " + wrong.Error() + "\nTry: " + wrong.Do + "\n"
	}
	if err != nil {
		return "Error: " + err.Error() + "\n"
	}
	return a.Text()
}

// TestEvents holds the answers, and the errors, of testdata/events.txt: after each "> " line what it is answered with.
func TestEvents(t *testing.T) {
	t.Parallel()
	catalog, all := entries(t)
	file := filepath.Join("testdata", "events.txt")
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var got strings.Builder
	events := 0
	for line := range strings.Lines(string(text)) {
		event, ok := strings.CutPrefix(strings.TrimSuffix(line, "\n"), "> ")
		switch {
		case ok:
			got.WriteString(line + answer(catalog, all, event) + "\n")
			events++
		case strings.HasPrefix(line, "#"):
			got.WriteString(line)
		}
	}
	if *update {
		if err := os.WriteFile(file, []byte(got.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		return
	}
	if diff := cmp.Diff(string(text), got.String()); diff != "" || events < 30 {
		t.Errorf("%d events (-want +got):\n%s", events, diff)
	}
}

// TestParseTakesAnything: a text is an event or an error at a place in it, and whatever is one can be answered.
func TestParseTakesAnything(t *testing.T) {
	t.Parallel()
	catalog, all := entries(t)
	word := rapid.SampledFrom([]string{
		"users", "people", "orders", ".", "stock", "INSERT", "update", "DELETE", "TRUNCATE", "id", "manager_id", "user_id", "=", ":", "->", " ", ",", "7", "NULL", "'", `"`, "''", "é", "\t",
	})
	rapid.Check(t, func(t *rapid.T) {
		text := strings.Join(rapid.SliceOfN(word, 0, 14).Draw(t, "words"), "")
		if got := answer(catalog, all, text); !strings.HasPrefix(got, "event ") && !strings.HasPrefix(got, "Error: event, character ") {
			t.Errorf("%q: %s", text, got)
		}
	})
}
