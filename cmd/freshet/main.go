// Command freshet keeps caches of PostgreSQL data in Redis fresh by following the database's log.
package main

import (
	"context"
	"os"
	"os/signal"
	"syscall"

	"github.com/freshet/freshet/internal/cli"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	code := cli.Run(ctx, cli.OS())
	stop()
	os.Exit(code)
}
