package pgtest

import (
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
	"testing"

	"github.com/freshet/freshet/internal/testkit"
)

// ResetXIDs has the stopped server give out transaction ids from next on, in another epoch: as if some billions of them had
// been used up. Every row that is to be read afterwards must be frozen.
func (s *Server) ResetXIDs(tb testing.TB, epoch, next uint32) {
	tb.Helper()
	if s.isShared {
		tb.Fatal("the shared server is not to be stopped: use pgtest.Start")
	}
	ctx, cancel := testkit.Context(tb)
	defer cancel()
	data := filepath.Join(s.Dir, "data")
	info, err := os.Stat(data)
	if err != nil {
		tb.Fatal(err)
	}
	cmd := exec.CommandContext(ctx, filepath.Join(s.Bin, "pg_resetwal"), //nolint:gosec // PostgreSQL's own program
		"--epoch="+strconv.FormatUint(uint64(epoch), 10),
		"--next-transaction-id="+strconv.FormatUint(uint64(next), 10), data)
	if owner, ok := info.Sys().(*syscall.Stat_t); ok && os.Geteuid() == 0 { // it refuses to run as root
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: owner.Uid, Gid: owner.Gid}}
	}
	if text, err := cmd.CombinedOutput(); err != nil {
		tb.Fatalf("pg_resetwal: %v\n%s", err, text)
	}
}

// BurnXIDs uses transaction ids up until the next one is as given, of 64 bits.
func (s *Server) BurnXIDs(tb testing.TB, url string, next uint64) {
	tb.Helper()
	for {
		text := s.Ask(tb, url, "SELECT pg_snapshot_xmax(pg_current_snapshot())::text")
		at, err := strconv.ParseUint(text, 10, 64)
		if err != nil || at > next {
			tb.Fatalf("the next transaction would be %s, not %d: %v", text, next, err)
		}
		if at == next {
			return
		}
		s.Exec(tb, url, "SELECT pg_current_xact_id()")
	}
}
