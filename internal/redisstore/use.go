package redisstore

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/redis/rueidis"

	"github.com/freshet/freshet/internal/store"
)

// useKey is where a use is registered: in the first lane.
func (s *Store) useKey(u Use) string { return s.laneKey(0, "use:"+u.Entry+"."+u.Definition) }

// Register says that who uses a version, for as long as it lasts. It goes on when Redis is full: it is a few bytes for
// each version, and a version without it is given up.
func (s *Store) Register(ctx context.Context, u Use, who string, lasts time.Duration) error {
	args := []string{who[:min(len(who), store.LongestUser)], millis(lasts)}
	if _, err := s.eval(ctx, s.scripts.register, s.useKey(u), args); err != nil {
		return fmt.Errorf("register use of entry %s: %w", u.Entry, err)
	}
	return nil
}

// Uses returns who registered each use last, for the uses that are registered. It looks for no others, and reads no more
// of any than a name may take, whatever clients have written.
func (s *Store) Uses(ctx context.Context, uses []Use) (map[Use]string, error) {
	to, err := s.toLane(0)
	if err != nil {
		return nil, fmt.Errorf("read the uses of entries: %w", err)
	}
	commands := make([]rueidis.Completed, len(uses))
	for i, u := range uses {
		commands[i] = s.client.B().Getrange().Key(s.useKey(u)).Start(0).End(store.LongestUser - 1).Build()
	}
	found := map[Use]string{}
	for i, reply := range to.client.DoMulti(ctx, commands...) {
		who, err := reply.ToString()
		switch {
		case err != nil && isWrongType(err):
			continue // somebody's, and no registration
		case err != nil:
			return nil, fmt.Errorf("read the use of entry %s: %w", uses[i].Entry, to.typed(err))
		case who != "":
			found[uses[i]] = store.Printable(who)
		}
	}
	return found, nil
}

func isWrongType(err error) bool {
	reply, ok := rueidis.IsRedisErr(err)
	return ok && strings.HasPrefix(reply.Error(), "WRONGTYPE")
}

// parseUse reads the rest of a key after the namespace.
func parseUse(rest string) (Use, bool) {
	text, ok := strings.CutPrefix(rest, "use:")
	at := strings.LastIndexByte(text, '.')
	if !ok || at < 0 {
		return Use{}, false
	}
	return Use{Entry: text[:at], Definition: text[at+1:]}, true
}
