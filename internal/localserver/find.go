package localserver

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
)

// MinPostgres is the oldest major version of PostgreSQL that freshet works with.
const MinPostgres = 14

// MissingError says that a server's program is not on this machine.
type MissingError struct {
	Program string // what was looked for
	Tried   []string
	Hint    string // the command that installs it
}

func (e *MissingError) Error() string {
	return fmt.Sprintf("%s is not installed (looked for it in %s); install it: %s",
		e.Program, strings.Join(e.Tried, ", "), e.Hint)
}

// FindPostgres returns the folder with the programs of a PostgreSQL that is new enough: the one on PATH, else the
// newest in the usual places.
func FindPostgres(ctx context.Context) (string, error) {
	tried := []string{"PATH"}
	var dirs []string
	if path, err := exec.LookPath("postgres"); err == nil {
		dirs = append(dirs, filepath.Dir(path))
	}
	for _, pattern := range []string{
		"/usr/lib/postgresql/*/bin", // Debian
		"/usr/pgsql-*/bin",          // Red Hat
		"/usr/local/bin",
		"/usr/local/pgsql/bin",
		"/opt/homebrew/opt/postgresql@*/bin",
		"/usr/local/opt/postgresql@*/bin",
	} {
		tried = append(tried, pattern)
		dirs = append(dirs, newestFirst(pattern)...)
	}
	var tooOld []string
	for _, dir := range dirs {
		// A link on PATH stands for its own folder, which has the rest of the programs.
		bin := dir
		if target, err := filepath.EvalSymlinks(filepath.Join(dir, "postgres")); err == nil {
			bin = filepath.Dir(target)
		}
		if !isProgram(filepath.Join(bin, "postgres")) || !isProgram(filepath.Join(bin, "initdb")) {
			continue
		}
		major, err := postgresMajor(ctx, bin)
		if err != nil {
			return "", err
		}
		if major >= MinPostgres {
			return bin, nil
		}
		tooOld = append(tooOld, fmt.Sprintf("%s (version %d)", bin, major))
	}
	program := fmt.Sprintf("PostgreSQL %d or newer", MinPostgres)
	if len(tooOld) > 0 {
		program += ", newer than " + strings.Join(tooOld, " and ") + ","
	}
	return "", &MissingError{Program: program, Tried: tried, Hint: installHint("postgresql", "postgresql@17")}
}

// FindRedis returns the path of a Redis or Valkey server.
func FindRedis() (string, error) {
	tried := []string{"PATH"}
	names := []string{"redis-server", "valkey-server"}
	for _, name := range names {
		if path, err := exec.LookPath(name); err == nil {
			return path, nil
		}
	}
	for _, dir := range []string{"/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"} {
		tried = append(tried, dir)
		for _, name := range names {
			if path := filepath.Join(dir, name); isProgram(path) {
				return path, nil
			}
		}
	}
	return "", &MissingError{
		Program: "Redis or Valkey (redis-server, valkey-server)", Tried: tried, Hint: installHint("redis-server", "redis"),
	}
}

// FindPgBouncer returns the path of PgBouncer, which only tests start.
func FindPgBouncer() (string, error) {
	if path, err := exec.LookPath("pgbouncer"); err == nil {
		return path, nil
	}
	tried := []string{"PATH"}
	for _, dir := range []string{"/usr/sbin", "/usr/bin", "/usr/local/bin", "/opt/homebrew/bin"} { // /usr/sbin: Debian
		tried = append(tried, dir)
		if path := filepath.Join(dir, "pgbouncer"); isProgram(path) {
			return path, nil
		}
	}
	return "", &MissingError{Program: "PgBouncer", Tried: tried, Hint: strings.Replace(installHint("pgbouncer", "pgbouncer"), "install-servers", "install-test-servers", 1)}
}

func installHint(apt, brew string) string {
	if runtime.GOOS == "darwin" {
		return "brew install " + brew
	}
	return "sudo apt-get install " + apt + " (or: make install-servers)"
}

// newestFirst expands a pattern and sorts by the number in it, the highest first.
func newestFirst(pattern string) []string {
	found, err := filepath.Glob(pattern)
	if err != nil {
		return nil // only a malformed pattern, and they are all above
	}
	digits := regexp.MustCompile(`\d+`)
	number := func(path string) int {
		n, err := strconv.Atoi(digits.FindString(path))
		if err != nil {
			return 0
		}
		return n
	}
	slices.SortStableFunc(found, func(a, b string) int { return number(b) - number(a) })
	return found
}

func isProgram(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.Mode().IsRegular() && info.Mode().Perm()&0o111 != 0
}

// postgresMajor asks the program for its version.
func postgresMajor(ctx context.Context, bin string) (int, error) {
	path := filepath.Join(bin, "postgres")
	out, err := exec.CommandContext(ctx, path, "--version").Output() //nolint:gosec // a server found in a fixed place
	if err != nil {
		return 0, fmt.Errorf("ask %s for its version: %w", path, err)
	}
	match := regexp.MustCompile(`\(PostgreSQL\) (\d+)`).FindSubmatch(out)
	if match == nil {
		return 0, errors.New("read version of " + path + ": " + strings.TrimSpace(string(out)))
	}
	major, err := strconv.Atoi(string(match[1]))
	if err != nil {
		return 0, fmt.Errorf("read version of %s: %w", path, err)
	}
	return major, nil
}
