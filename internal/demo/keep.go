package demo

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// keepPostgres moves the database cluster into the demo's directory before its own is removed.
func (s *stage) keepPostgres(ctx context.Context) error {
	if !s.options.Keep {
		return nil
	}
	if err := s.postgres.Stop(ctx); err != nil {
		return err
	}
	target := filepath.Join(s.dir, "postgres")
	if err := os.Rename(filepath.Join(s.postgres.Dir, "data"), target); err != nil {
		return fmt.Errorf("keep the database cluster: %w", err)
	}
	s.say("kept: start it with: %s -D %s", filepath.Join(s.postgres.Bin, "postgres"), target)
	return s.openDirToOwner()
}

// openDirToOwner lets the account that the cluster belongs to reach it.
func (s *stage) openDirToOwner() error {
	if err := os.Chmod(s.dir, 0o755); err != nil { //nolint:gosec // the servers' account must get in; the files have modes of their own
		return fmt.Errorf("keep the demo's directory: %w", err)
	}
	return nil
}

// keepRedis saves what Redis holds into the demo's directory.
func (s *stage) keepRedis(ctx context.Context) error {
	if !s.options.Keep {
		return nil
	}
	reply, err := s.redis.Command(ctx, "SAVE")
	if err == nil && reply != "+OK" {
		err = errors.New(reply)
	}
	if err != nil {
		return fmt.Errorf("keep Redis' data: %w", err)
	}
	target := filepath.Join(s.dir, "redis")
	if err := os.Mkdir(target, 0o755); err != nil { //nolint:gosec // as above
		return fmt.Errorf("keep Redis' data: %w", err)
	}
	if err := os.Rename(filepath.Join(s.redis.Dir, "dump.rdb"), filepath.Join(target, "dump.rdb")); err != nil {
		return fmt.Errorf("keep Redis' data: %w", err)
	}
	s.say("kept: start it with: %s --port %d --dir %s", s.redis.Program, s.redis.Port, target)
	return nil
}

// invite prints what there is to look at while everything keeps serving.
func (s *stage) invite() error {
	out := s.options.Stdout
	if s.options.JSON {
		out = s.options.Stderr // stdout has the report and nothing else
	}
	_, err := fmt.Fprintf(out, `
Everything keeps running until you interrupt it (Ctrl-C). To look at:
  page     %[1]s/
  read     curl -i %[1]s/v1/entries/product/7
           curl -i %[1]s/v1/entries/user_profile/42
           curl -s %[1]s/v1/entries/category_page/12
  write    psql '%[2]s' -c 'UPDATE products SET price = price + 1 WHERE id = 7'
  Redis    redis-cli -p %[3]d --scan --pattern 'f:%[4]s:*'
  state    curl -s %[1]s/v1/status
           curl -s %[1]s/metrics
  explain  %[5]s explain --config %[6]s
  log      tail -f %[7]s
`, s.gateway.base, s.postgres.URL(database), s.redis.Port, namespace, s.options.Executable, s.configFile(), s.log.Name())
	if err != nil {
		return fmt.Errorf("write addresses: %w", err)
	}
	return nil
}
