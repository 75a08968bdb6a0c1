package docs

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/config"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
	"github.com/freshet/freshet/internal/testkit/servetest"
)

// TestQuickStartWithoutRedis walks through README.md's first section of the daemon: its table, its file and its one command, with no
// Redis anywhere; the read, a change that the next read shows.
func TestQuickStartWithoutRedis(t *testing.T) {
	readme := read(t, "README.md")
	_, section, _ := strings.Cut(readme, "\n## A database and one command, from any language\n")
	section, _, _ = strings.Cut(section, "\n## ")
	pg := pgtest.Start(t, pgtest.Options{})
	url := pg.Database(t)
	t.Setenv("DATABASE_URL", url)
	pg.Exec(t, url, strings.Split(strings.TrimSpace(strings.TrimSuffix(strings.TrimSpace(block(t, readme, "sql", "kettle")), ";")), ";\n")...)
	text := block(t, section, "yaml", "DATABASE_URL")
	if strings.Contains(text, "redis") {
		t.Fatalf("the file names Redis:\n%s", text)
	}
	file := filepath.Join(t.TempDir(), "freshet.yaml")
	if err := os.WriteFile(file, []byte(text+"listen: 127.0.0.1:0\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	var commands []string
	for line := range strings.Lines(block(t, section, "sh", "serve")) {
		command, _, _ := strings.Cut(line, "#")
		commands = append(commands, strings.TrimSpace(command))
	}
	if len(commands) != 3 || commands[0] != "make build" || !strings.HasPrefix(commands[1], "export DATABASE_URL=") || commands[2] != "./bin/freshet serve" {
		t.Fatalf("README.md's commands are %q", commands)
	}
	d := servetest.Start(t, "quick start without Redis", file)
	lines := strings.Split(strings.TrimSpace(block(t, section, "console", "/v1/entries/product/42")), "\n")
	_, path, _ := strings.Cut(lines[0], "127.0.0.1:7780")
	get := func(status, want string) {
		t.Helper()
		testkit.Eventually(t, 30*time.Second, func() error {
			code, header, body, err := d.Get(t.Context(), path)
			if err != nil {
				return err
			}
			if status != "" && header.Get("Freshet-Status") != status {
				return fmt.Errorf("Freshet-Status: %s", header.Get("Freshet-Status"))
			}
			return bodyIs(want)(code, string(body))
		})
	}
	get("hit", lines[1])
	pg.Exec(t, url, `UPDATE products SET price = 19.90 WHERE id = 42`)
	get("", strings.Replace(lines[1], "24.50", "19.90", 1))
	if err := d.Stop(); err != nil {
		t.Error(err)
	}

	// The other file that the section speaks of is enough as well.
	if !strings.Contains(section, "`./bin/freshet init`") || !strings.Contains(section, "called `products` there") {
		t.Fatal("the section does not speak of freshet init")
	}
	file = filepath.Join(t.TempDir(), "freshet.yaml")
	run := func(args ...string) {
		t.Helper()
		if out, err := exec.CommandContext(t.Context(), servetest.Binary(t), append(args, "--config", file)...).CombinedOutput(); err != nil {
			t.Fatalf("freshet %s: %v\n%s", args, err, out)
		}
	}
	run("init")
	written, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, append(written, "listen: 127.0.0.1:0\n"...), 0o600); err != nil {
		t.Fatal(err)
	}
	d = servetest.Start(t, "quick start by freshet init", file)
	path = strings.Replace(path, "/product/", "/products/", 1)
	get("hit", strings.Replace(lines[1], "24.50", "19.90", 1))
	pg.Exec(t, url, `UPDATE products SET price = 24.50 WHERE id = 42`)
	get("", lines[1])
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	// What it says of Redis holds too.
	if err := os.WriteFile(file, []byte(strings.Replace(string(written), "# regions:", "regions:", 1)), 0o600); err != nil {
		t.Fatal(err)
	}
	c, err := config.Load(file, os.LookupEnv)
	if err != nil || len(c.Regions) != 1 {
		t.Errorf("with its line regions: %+v, %v", c, err)
	}
}
