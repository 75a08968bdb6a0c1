package localserver_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/freshet/freshet/internal/localserver"
)

func TestFindPostgresTakesAWholeInstallation(t *testing.T) {
	bin, err := localserver.FindPostgres(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// On PATH there is often only a link to one of the programs.
	alone := t.TempDir()
	if err := os.Symlink(filepath.Join(bin, "postgres"), filepath.Join(alone, "postgres")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", alone)
	got, err := localserver.FindPostgres(t.Context())
	if err != nil || got != bin {
		t.Errorf("FindPostgres = %s, %v, want %s", got, err, bin)
	}
}

func TestFindPostgresPassesOverAnOldOne(t *testing.T) {
	old := t.TempDir()
	for _, name := range []string{"postgres", "initdb"} {
		script := "#!/bin/sh\necho 'postgres (PostgreSQL) 13.9'\n"
		if err := os.WriteFile(filepath.Join(old, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	t.Setenv("PATH", old)
	bin, err := localserver.FindPostgres(t.Context())
	var missing *localserver.MissingError
	switch {
	case err == nil && bin != old: // the usual places have a newer one
	case errors.As(err, &missing) && strings.Contains(err.Error(), "13"):
	default:
		t.Errorf("FindPostgres = %s, %v, want a newer one, or an error that names version 13", bin, err)
	}
}

func TestMissingErrorNamesTheCommand(t *testing.T) {
	t.Parallel()
	err := &localserver.MissingError{Program: "Redis", Tried: []string{"PATH", "/usr/bin"}, Hint: "brew install redis"}
	want := "Redis is not installed (looked for it in PATH, /usr/bin); install it: brew install redis"
	if err.Error() != want {
		t.Errorf("Error() = %q, want %q", err.Error(), want)
	}
}
