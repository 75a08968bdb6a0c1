package pgload_test

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/pgtest"
)

func eventually(t *testing.T, check func() error) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, check)
}

func becomeStandby(t *testing.T, server *pgtest.Server) {
	t.Helper()
	path := filepath.Join(server.Dir, "data", "standby.signal")
	if err := os.WriteFile(path, nil, 0o644); err != nil {
		t.Fatal(err)
	}
}
