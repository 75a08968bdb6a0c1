package cli

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/spf13/cobra"

	"github.com/freshet/freshet/internal/daemon"
)

// reloadPatience is longer than a daemon takes to plan a file and to bring it into force.
const reloadPatience = time.Minute

func (a *app) reload() *cobra.Command {
	return a.jsonFlag(&cobra.Command{
		Use:   "reload",
		Short: "Have the daemon read its file again",
		Long: "reload has the daemon read the file that it was started with, as SIGHUP does, and says what changed. Entries that did not\n" +
			"change stay cached. The whole file is applied or nothing of it: a file with an error, one that changes more than\n" +
			"defaults and entries, and a query that is refused leave the one before in force.",
		Example: "  freshet reload\n  freshet reload --json",
		Args:    cobra.NoArgs,
		RunE:    func(cmd *cobra.Command, _ []string) error { return a.runReload(cmd.Context()) },
	})
}

func (a *app) runReload(ctx context.Context) error {
	c, err := a.load()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, reloadPatience)
	defer cancel()
	status, body, err := callDaemon(ctx, c, http.MethodPost, "/v1/reload")
	if err != nil {
		return &exitError{code: exitFailure, err: err, try: "freshet serve, unless one runs: it is asked at the address that the file has now"}
	}
	if status != http.StatusOK {
		var said struct {
			Title  string `json:"title"`
			Detail string `json:"detail"`
		}
		if json.Unmarshal(body, &said) != nil || said.Detail == "" {
			return fmt.Errorf("ask the daemon: %s answers %d %s", c.Listen, status, http.StatusText(status))
		}
		code := exitFailure
		if status == http.StatusUnprocessableEntity {
			code = exitUsage
		}
		return &exitError{code: code, err: errors.New(said.Detail), try: "freshet check"}
	}
	if a.json {
		return a.printJSON(json.RawMessage(body))
	}
	var done daemon.Reloaded
	if err := json.Unmarshal(body, &done); err != nil {
		return fmt.Errorf("read the daemon's answer: %w", err)
	}
	var rows [][]string
	for _, group := range []struct {
		name  string
		names []string
	}{{"added", done.Added}, {"changed", done.Changed}, {"removed", done.Removed}} {
		if len(group.names) > 0 {
			rows = append(rows, []string{group.name, join(group.names)})
		}
	}
	if len(rows) == 0 {
		rows = append(rows, []string{"entries", "as before"})
	}
	if !done.Live {
		rows = append(rows, []string{"pending", done.Pending})
	}
	a.printTable(rows)
	return nil
}
