package localserver_test

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"testing"

	"github.com/freshet/freshet/internal/localserver"
	"github.com/freshet/freshet/internal/testkit"
)

// childVariable makes this test binary start servers and wait to be killed.
const childVariable = "FRESHET_LOCALSERVER_CHILD"

// child is what such a process says about its servers.
type child struct {
	Dirs []string `json:"dirs"`
	PIDs []int    `json:"pids"`
}

func TestMain(m *testing.M) {
	if os.Getenv(childVariable) != "" {
		if err := startAndWait(); err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(1) //nolint:forbidigo // the main of a child process
	}
	testkit.Main(m)
}

// startAndWait starts both servers, says so, and never returns on its own.
func startAndWait() error {
	ctx := context.Background()
	postgres, err := localserver.StartPostgres(ctx, localserver.PostgresOptions{})
	if err != nil {
		return err
	}
	redis, err := localserver.StartRedis(ctx, localserver.RedisOptions{})
	if err != nil {
		return err
	}
	said := child{Dirs: []string{postgres.Dir, redis.Dir}, PIDs: []int{postgres.PID(), redis.PID()}}
	if err := json.NewEncoder(os.Stdout).Encode(said); err != nil {
		return err
	}
	select {}
}
