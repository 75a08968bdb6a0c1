package redisstore

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/redis/rueidis"
)

// Info is what the check command asks a server about.
type Info struct {
	Server          string // "redis" or "valkey"
	Version         string // of the server
	Role            string // "master" or "slave"
	Mode            string // "standalone", "sentinel" or "cluster"
	Replid          string // the name of the server's history
	RunID           string // of this run of the server
	MaxMemory       int64  // bytes, 0 for no bound
	MaxMemoryPolicy string
	UsedMemory      int64
}

// Supported says why freshet cannot use the server as what its address calls it, a node of a cluster or not, or nothing: Redis 7.0
// and Valkey 7.2 are the first whose scripts can say that a full server must run them.
func (i Info) Supported(clustered bool) string {
	major, minor, ok := i.number()
	switch {
	case !ok:
		return fmt.Sprintf("its version %q cannot be read", i.Version)
	case i.Server == "valkey" && (major < 7 || major == 7 && minor < 2):
		return fmt.Sprintf("Valkey %s is too old: 7.2 is needed", i.Version)
	case i.Server != "valkey" && major < 7:
		return fmt.Sprintf("Redis %s is too old: 7.0 is needed", i.Version)
	case i.Mode == "sentinel":
		return "it is a Sentinel itself, and the URL does not say which master it is asked for (master_set)"
	case clustered && i.Mode == "cluster":
	case i.Mode == "cluster":
		return "it is a node of a Redis Cluster, and the URL names it like a single server: keys would be looked for on nodes that do not hold them"
	case i.Mode != "standalone":
		return fmt.Sprintf("it runs in a mode that is not known here (%s)", i.Mode)
	}
	return ""
}

func (i Info) number() (major, minor int, ok bool) {
	first, rest, _ := strings.Cut(i.Version, ".")
	second, _, _ := strings.Cut(rest, ".")
	major, errMajor := strconv.Atoi(first)
	minor, errMinor := strconv.Atoi(second)
	return major, minor, errMajor == nil && errMinor == nil
}

// Info asks the server what it is.
func (s *Store) Info(ctx context.Context) (Info, error) {
	return infoOf(ctx, s.client)
}

func infoOf(ctx context.Context, client rueidis.Client) (Info, error) {
	text, err := client.Do(ctx, client.B().Info().Build()).ToString()
	if err != nil {
		return Info{}, fmt.Errorf("read server info: %w", typed(err))
	}
	return parseInfo(text), nil
}

// Replid is the name of the history of the server that the address leads to now, asked over a connection of its own. A
// daemon whose Conn has another one is not where new readers are.
func (s *Store) Replid(ctx context.Context) (string, error) {
	client, err := s.dedicate()
	if err != nil {
		return "", fmt.Errorf("read server info: %w", err)
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, replyTimeout)
	defer cancel()
	text, err := client.Do(ctx, client.B().Info().Section("replication").Build()).ToString()
	if err != nil {
		return "", fmt.Errorf("read server info: %w", typed(err))
	}
	return parseInfo(text).Replid, nil
}

// Servers are the servers that some connections lead to, by the id of their run: more than one is an address that
// spreads its connections, where INTENT, UNLINK and ADVANCE cannot be known to have reached what readers read.
func (s *Store) Servers(ctx context.Context) ([]string, error) {
	const connections = 4
	var ids []string
	for range connections {
		client, err := s.dedicate()
		if err != nil {
			return nil, fmt.Errorf("read server info: %w", err)
		}
		text, err := client.Do(ctx, client.B().Info().Section("server").Build()).ToString()
		client.Close()
		if err != nil {
			return nil, fmt.Errorf("read server info: %w", typed(err))
		}
		if id := parseInfo(text).RunID; !slices.Contains(ids, id) {
			ids = append(ids, id)
		}
	}
	return ids, nil
}

// Settings are settings of the server that decide what it loses; nil when the user may not ask for them.
func (s *Store) Settings(ctx context.Context) (map[string]string, error) {
	return settingsOf(ctx, s.client)
}

func settingsOf(ctx context.Context, client rueidis.Client) (map[string]string, error) {
	settings, err := client.Do(ctx, client.B().ConfigGet().Parameter(
		"save", "appendonly", "appendfsync", "min-replicas-to-write", "replica-serve-stale-data", "cluster-require-full-coverage").Build()).AsStrMap()
	err = typed(err)
	if errors.Is(err, ErrNoPermission) || errors.Is(err, ErrRefused) { // a service may have renamed the command
		return nil, nil //nolint:nilnil // that nothing is known is an answer
	}
	if err != nil {
		return nil, fmt.Errorf("read server settings: %w", err)
	}
	return settings, nil
}

func parseInfo(text string) Info {
	i := Info{Server: "redis"}
	number := func(s string) int64 {
		n, err := strconv.ParseInt(s, 10, 64)
		if err != nil {
			return 0 // a field that a server does not have, or spells otherwise, is not known
		}
		return n
	}
	for lines := bufio.NewScanner(strings.NewReader(text)); lines.Scan(); {
		name, value, _ := strings.Cut(lines.Text(), ":")
		switch name {
		case "redis_version":
			if i.Version == "" {
				i.Version = value
			}
		case "valkey_version":
			i.Server, i.Version = "valkey", value
		case "redis_mode", "server_mode":
			i.Mode = value
		case "role":
			i.Role = value
		case "master_replid":
			i.Replid = value
		case "run_id":
			i.RunID = value
		case "maxmemory":
			i.MaxMemory = number(value)
		case "maxmemory_policy":
			i.MaxMemoryPolicy = value
		case "used_memory":
			i.UsedMemory = number(value)
		}
	}
	return i
}
