// Package docs holds what the project's documents say against the project.
package docs

import (
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/redistest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

func TestMain(m *testing.M) { testkit.Main(m) }

const root = "../.."

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, path))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// missing returns the tests that a document names as `package/Test` and that do not exist.
func missing(t *testing.T, document string) (named int, absent []string) {
	t.Helper()
	reference := regexp.MustCompile("`([a-z/]+)/(Test[A-Za-z0-9]+)`")
	for _, m := range reference.FindAllStringSubmatch(document, -1) {
		named++
		dir := m[1]
		if dir == "freshet" { // the library, at the root
			dir = "."
		}
		files, err := filepath.Glob(filepath.Join(root, dir, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		found := slices.ContainsFunc(files, func(file string) bool {
			text, err := os.ReadFile(file)
			return err == nil && strings.Contains(string(text), "\nfunc "+m[2]+"(")
		})
		if !found {
			absent = append(absent, m[1]+"/"+m[2])
		}
	}
	return named, absent
}

// TestGuaranteesNameTestsThatExist also requires that every promise names one.
func TestGuaranteesNameTestsThatExist(t *testing.T) {
	t.Parallel()
	text := read(t, "GUARANTEES.md")
	named, absent := missing(t, text)
	if named < 30 || len(absent) > 0 {
		t.Errorf("GUARANTEES.md names %d tests; these do not exist: %v", named, absent)
	}
	_, promised, _ := strings.Cut(text, "## What is promised")
	promised, _, _ = strings.Cut(promised, "\n## ")
	for promise := range strings.SplitSeq(promised, "\n\n") {
		if strings.HasPrefix(promise, "**") && !strings.Contains(promise, "/Test") {
			t.Errorf("this promise names no test: %s", promise)
		}
	}
	if named, absent := missing(t, read(t, "docs/consistency.md")); named < 10 || len(absent) > 0 {
		t.Errorf("docs/consistency.md names %d tests; these do not exist: %v", named, absent)
	}
	if _, absent := missing(t, "`internal/plan/TestThatNobodyWrote`"); len(absent) != 1 {
		t.Error("a test that does not exist was not noticed")
	}
}

// TestEveryCaseIsListed holds the table of docs/cases.md against the tests and the model: T1 to T37, each with something
// that shows it, or the plain word that its part is not built.
func TestEveryCaseIsListed(t *testing.T) {
	t.Parallel()
	text := read(t, "docs/cases.md")
	if named, absent := missing(t, text); named < 40 || len(absent) > 0 {
		t.Errorf("docs/cases.md names %d tests; these do not exist: %v", named, absent)
	}
	model := read(t, "spec/without_test.go") + read(t, "spec/schemes_test.go") + read(t, "spec/placings_test.go") +
		read(t, "spec/epoch_configs_test.go") + read(t, "spec/tags_test.go")
	rows := regexp.MustCompile(`(?m)^\| (T\d+) \|(.*)\|(.*)\|(.*)\|(.*)\|$`).FindAllStringSubmatch(text, -1)
	listed := map[string]bool{}
	for i, row := range rows {
		if want := fmt.Sprintf("T%d", i+1); row[1] != want {
			t.Fatalf("%s is where %s should be", row[1], want)
		}
		if !strings.Contains(row[0], "not built") && !strings.Contains(row[5], "/Test") {
			t.Errorf("%s has no test on real servers, and is not said to be not built", row[1])
		}
		for _, name := range regexp.MustCompile("`([^`]+)`").FindAllStringSubmatch(row[4], -1) {
			listed[name[1]] = true
			if !strings.Contains(model, `name: "`+name[1]+`"`) {
				t.Errorf("%s: the model has no %q", row[1], name[1])
			}
		}
	}
	if len(rows) != 37 {
		t.Errorf("%d cases are listed, not 37", len(rows))
	}
	guarantees := read(t, "GUARANTEES.md")
	for _, row := range rows {
		model, tests := "-", "-"
		if strings.TrimSpace(row[4]) != "" {
			model = "in the model"
		}
		if named := strings.TrimSpace(row[5]); named != "" {
			tests = named
		}
		if want := fmt.Sprintf("| %s | %s | %s |\n", row[1], model, tests); !strings.Contains(guarantees, want) {
			t.Errorf("GUARANTEES.md lacks, of the cases, %s", want)
		}
	}
	for _, m := range regexp.MustCompile(`name: "(T\d+[^"]*)"`).FindAllStringSubmatch(model, -1) {
		if !listed[m[1]] {
			t.Errorf("the model's %q is not listed", m[1])
		}
	}
}

// TestLinksLeadSomewhere follows the relative links of the documents.
func TestLinksLeadSomewhere(t *testing.T) {
	t.Parallel()
	link := regexp.MustCompile(`\]\(([^)#:]+)(#[^)]*)?\)`)
	files, err := filepath.Glob(filepath.Join(root, "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	more, err := filepath.Glob(filepath.Join(root, "docs", "*.md"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range append(files, more...) {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		prose := regexp.MustCompile("(?s)```.*?```").ReplaceAllString(string(text), "")
		for _, m := range link.FindAllStringSubmatch(prose, -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(file), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", filepath.Base(file), m[1], err)
			}
		}
	}
}

// block returns the fenced block of a language that holds a text.
func block(t *testing.T, document, language, holds string) string {
	t.Helper()
	for _, m := range regexp.MustCompile("(?s)```"+language+"\n(.*?)```").FindAllStringSubmatch(document, -1) {
		if strings.Contains(m[1], holds) {
			return m[1]
		}
	}
	t.Fatalf("README.md has no %s block with %q", language, holds)
	return ""
}

// TestQuickStart walks through README.md as it is written, but for the port: its table, its file with its variables, its
// commands in a directory of their own, the read, a change that the next read shows, and the end of it.
func TestQuickStart(t *testing.T) {
	readme := read(t, "README.md")
	pg, redis := pgtest.Start(t, pgtest.Options{}), redistest.Start(t)
	url := pg.Database(t)
	t.Setenv("DATABASE_URL", url)
	t.Setenv("REDIS_URL", redis.URL)
	pg.Exec(t, url, strings.Split(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(block(t, readme, "sql", "kettle")), ";")), ";\n")...)
	dir := t.TempDir()
	file := filepath.Join(dir, "freshet.yaml")
	if err := os.WriteFile(file, []byte(block(t, readme, "yaml", "REDIS_URL")+"listen: 127.0.0.1:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(dir, "bin"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink(servetest.Binary(t), filepath.Join(dir, "bin", "freshet")); err != nil { // what make build makes
		t.Fatal(err)
	}
	run := func(line string) {
		t.Helper()
		c := exec.CommandContext(t.Context(), "bash", "-c", line)
		c.Dir = dir
		if out, err := c.CombinedOutput(); err != nil {
			t.Errorf("%s: %v\n%s", line, err, out)
		}
	}
	var commands []string
	for line := range strings.Lines(block(t, readme, "sh", "check")) {
		command, _, _ := strings.Cut(line, "#")
		commands = append(commands, strings.TrimSpace(command))
	}
	if len(commands) != 4 || commands[0] != "make build" || !strings.HasPrefix(commands[1], "export DATABASE_URL=") || commands[3] != "./bin/freshet serve" {
		t.Fatalf("README.md's commands are %q", commands)
	}
	run(commands[2])
	explain := strings.TrimPrefix(strings.TrimSpace(block(t, readme, "console", "explain")), "$ ")
	run(explain)
	d := servetest.Start(t, "quick start", file)
	console := block(t, readme, "console", "/v1/entries/product/42")
	lines := strings.Split(strings.TrimSpace(console), "\n")
	_, path, _ := strings.Cut(lines[0], "127.0.0.1:7780")
	get := func(check func(status int, body string) error) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, func() error {
			status, _, body, err := d.Get(t.Context(), path)
			if err != nil {
				return err
			}
			return check(status, string(body))
		})
	}
	get(bodyIs(lines[1]))
	testkit.Eventually(t, 30*time.Second, func() error {
		_, header, _, err := d.Get(t.Context(), path)
		if err == nil && header.Get("Freshet-Status") != "hit" {
			err = fmt.Errorf("not cached: %s", header.Get("Freshet-Status"))
		}
		return err
	})
	pg.Exec(t, url, `UPDATE products SET price = 19.90 WHERE id = 42`)
	get(bodyIs(strings.Replace(lines[1], "24.50", "19.90", 1)))
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	if !strings.Contains(readme, "`freshet drop` removes slot, publication, schema and keys") {
		t.Error("README.md does not say what freshet drop removes any more")
	}
	run("./bin/freshet drop --yes")
	if left := pg.Ask(t, url, `SELECT concat_ws(', ', (SELECT string_agg(slot_name, ', ') FROM pg_replication_slots),
		(SELECT string_agg(pubname, ', ') FROM pg_publication), (SELECT nspname FROM pg_namespace WHERE nspname = 'freshet'))`); left != "" {
		t.Errorf("freshet drop leaves %s", left)
	}
	if keys, err := redis.Ask(t, "DBSIZE").AsInt64(); err != nil || keys != 0 {
		t.Errorf("freshet drop leaves %d keys (%v)", keys, err)
	}
}

// bodyIs checks an answer's body.
func bodyIs(want string) func(status int, body string) error {
	return func(status int, body string) error {
		if status != http.StatusOK || strings.TrimSpace(body) != want {
			return fmt.Errorf("status %d, body %s, want %s", status, body, want)
		}
		return nil
	}
}

// TestMetricsAreListed holds the tables of docs/metrics.md against the metrics in the code, in both directions, and the alerts of
// docs/operations.md against the tables.
func TestMetricsAreListed(t *testing.T) {
	t.Parallel()
	page := read(t, "docs/metrics.md")
	find := func(text, pattern string) map[string]bool {
		all := map[string]bool{}
		for _, m := range regexp.MustCompile(pattern).FindAllStringSubmatch(text, -1) {
			all[m[1]] = true
		}
		return all
	}
	listed := find(page, "(?m)^\\| `(freshet_[a-z_]+)` \\|")
	made := find(read(t, "internal/daemon/metrics.go")+read(t, "internal/api/metrics.go")+read(t, "internal/readmetrics/readmetrics.go")+
		read(t, "freshetprom/freshetprom.go"), `"(freshet_[a-z_]+)"`)
	if len(made) < 40 {
		t.Errorf("only %d metrics were found", len(made))
	}
	for name := range made {
		if !listed[name] {
			t.Errorf("docs/metrics.md does not list %s", name)
		}
	}
	for name := range listed {
		if !made[name] {
			t.Errorf("docs/metrics.md lists %s, which is not made", name)
		}
	}
	_, alerts, _ := strings.Cut(read(t, "docs/operations.md"), "## Alerts worth having")
	for name := range find(alerts, "(freshet_[a-z_]+_(?:total|seconds|bytes))") {
		if !listed[name] {
			t.Errorf("docs/operations.md watches %s, which there is not", name)
		}
	}
	for name := range find(page, "`(freshet\\.[a-z.]+)`") {
		if !strings.Contains(read(t, "freshetotel/freshetotel.go"), `"`+name+`"`) && name != "freshet.reads.hit" {
			t.Errorf("docs/metrics.md names %s, which freshetotel does not make", name)
		}
	}
	if _, absent := missing(t, page+read(t, "docs/http.md")+read(t, "docs/writing.md")); len(absent) > 0 {
		t.Errorf("these tests do not exist: %v", absent)
	}
}

// TestRefusalsAreListed holds the list of refusals against the golden cases, in both directions.
func TestRefusalsAreListed(t *testing.T) {
	t.Parallel()
	folders, err := filepath.Glob(filepath.Join(root, "internal", "plan", "testdata", "*", "refuse_*"))
	if err != nil || len(folders) == 0 {
		t.Fatalf("find the refusals: %d, %v", len(folders), err)
	}
	var there []string
	for _, folder := range folders {
		there = append(there, filepath.Base(folder))
	}
	listed := regexp.MustCompile("`(refuse_[a-z_]+)`").FindAllStringSubmatch(read(t, "docs/dependencies.md"), -1)
	for _, m := range listed {
		if !slices.Contains(there, m[1]) {
			t.Errorf("docs/dependencies.md lists %s, which is no case", m[1])
		}
	}
	for _, name := range there {
		if !slices.ContainsFunc(listed, func(m []string) bool { return m[1] == name }) {
			t.Errorf("docs/dependencies.md does not list %s", name)
		}
	}
}
