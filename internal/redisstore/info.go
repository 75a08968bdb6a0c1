package redisstore

import (
	"bufio"
	"context"
	"fmt"
	"strconv"
	"strings"
)

// Info is what the check command asks a server about.
type Info struct {
	Server          string // "redis" or "valkey"
	Version         string // of the server
	Role            string // "master" or "slave"
	Mode            string // "standalone", "sentinel" or "cluster"
	Replid          string // the name of the server's history
	MaxMemory       int64  // bytes, 0 for no bound
	MaxMemoryPolicy string
	UsedMemory      int64
}

// Supported says why freshet cannot use the server, or nothing: Redis 7.0 and Valkey 7.2 are the first whose scripts
// can say that a full server must run them.
func (i Info) Supported() string {
	major, minor, ok := i.number()
	switch {
	case !ok:
		return fmt.Sprintf("its version %q cannot be read", i.Version)
	case i.Server == "valkey" && (major < 7 || major == 7 && minor < 2):
		return fmt.Sprintf("Valkey %s is too old: 7.2 is needed", i.Version)
	case i.Server != "valkey" && major < 7:
		return fmt.Sprintf("Redis %s is too old: 7.0 is needed", i.Version)
	case i.Mode != "standalone":
		return fmt.Sprintf("it runs in %s mode, which is not supported yet", i.Mode)
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
	text, err := s.client.Do(ctx, s.client.B().Info().Build()).ToString()
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
