package localserver

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// RedisOptions says how a private Redis differs from the usual one.
type RedisOptions struct {
	// Program is the path of redis-server or valkey-server. Default: FindRedis.
	Program string
	// Args are further command-line arguments, such as "--maxmemory", "10mb". By default nothing is persisted.
	Args []string
	// File is the text of a configuration file, which the server may change: a Sentinel needs one. Default: none.
	File string
	// Env are variables of the server's environment, as NAME=value.
	Env []string
}

// Redis is a private Redis or Valkey server. Its methods are for one goroutine at a time.
type Redis struct {
	Dir     string // removed by Close
	Port    int
	Program string

	options    RedisOptions
	supervisor *supervisor
}

// redisFile is where RedisOptions.File is.
const redisFile = "redis.conf"

// StartRedis starts an empty server. The caller closes it.
func StartRedis(ctx context.Context, options RedisOptions) (*Redis, error) {
	program := options.Program
	if program == "" {
		found, err := FindRedis()
		if err != nil {
			return nil, err
		}
		program = found
	}
	keeper, err := supervise(ctx, "redis")
	if err != nil {
		return nil, fmt.Errorf("start Redis: %w", err)
	}
	r := &Redis{Dir: keeper.dir, Program: program, options: options, supervisor: keeper}
	if options.File != "" {
		if err := keeper.write(redisFile, options.File); err != nil {
			return nil, errors.Join(fmt.Errorf("start Redis: %w", err), r.Close())
		}
	}
	if err := r.create(ctx); err != nil {
		return nil, errors.Join(err, r.Close())
	}
	return r, nil
}

func (r *Redis) create(ctx context.Context) error {
	const attempts = 5
	for attempt := 1; ; attempt++ {
		port, err := FreePort()
		if err != nil {
			return fmt.Errorf("start Redis: %w", err)
		}
		r.Port = port
		err = r.Start(ctx)
		// Someone else may have taken the port in between.
		if err == nil || attempt == attempts || r.supervisor.current().alive() || ctx.Err() != nil {
			return err
		}
	}
}

// Addr is the server's host and port.
func (r *Redis) Addr() string { return net.JoinHostPort("127.0.0.1", strconv.Itoa(r.Port)) }

// URL is the server's address as a redis URL, database 0.
func (r *Redis) URL() string { return "redis://" + r.Addr() + "/0" }

// PID is the process id of the server, or 0.
func (r *Redis) PID() int { return r.supervisor.pid() }

// Log is the end of the server's log.
func (r *Redis) Log() string { return r.supervisor.log() }

// Start starts the stopped server again on the same port. It is empty unless its arguments made it persist.
func (r *Redis) Start(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	argv := withEnv(r.options.Env, r.Program)
	if r.options.File != "" {
		argv = append(argv, filepath.Join(r.Dir, redisFile))
	}
	argv = append(argv, "--bind", "127.0.0.1", "--port", strconv.Itoa(r.Port), "--dir", r.Dir,
		"--save", "", "--appendonly", "no", "--daemonize", "no")
	argv = append(argv, r.options.Args...)
	run, err := r.supervisor.run(ctx, "KILL", argv...)
	if err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	err = r.supervisor.ready(ctx, run, func() bool {
		reply, err := r.Command(ctx, "PING")
		return err == nil && reply == "+PONG"
	})
	if err != nil {
		return fmt.Errorf("start Redis: %w", err)
	}
	return nil
}

// Command sends one command without spaces in its words and returns the first line of the reply as it came.
func (r *Redis) Command(ctx context.Context, words ...string) (string, error) {
	const patience = 10 * time.Second
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	conn, err := (&net.Dialer{}).DialContext(ctx, "tcp4", r.Addr())
	if err != nil {
		return "", fmt.Errorf("dial Redis: %w", err)
	}
	defer func() { _ = conn.Close() }() // nothing is buffered in it
	if deadline, ok := ctx.Deadline(); ok {
		if err := conn.SetDeadline(deadline); err != nil {
			return "", fmt.Errorf("dial Redis: %w", err)
		}
	}
	if _, err := fmt.Fprintf(conn, "%s\r\n", strings.Join(words, " ")); err != nil {
		return "", fmt.Errorf("ask Redis: %w", err)
	}
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil {
		return "", fmt.Errorf("read Redis' answer: %w", err)
	}
	return strings.TrimRight(line, "\r\n"), nil
}

// Stop shuts the server down in order.
func (r *Redis) Stop(ctx context.Context) error {
	if err := r.supervisor.end(ctx, syscall.SIGTERM); err != nil {
		return fmt.Errorf("stop Redis: %w", err)
	}
	return nil
}

// Kill ends the server with SIGKILL.
func (r *Redis) Kill(ctx context.Context) error {
	if err := r.supervisor.end(ctx, syscall.SIGKILL); err != nil {
		return fmt.Errorf("kill Redis: %w", err)
	}
	return nil
}

// Freeze has the server stand still (SIGSTOP): it accepts connections and answers nothing, until Thaw.
func (r *Redis) Freeze() error { return r.signal("freeze", syscall.SIGSTOP) }

// Thaw has a frozen server go on.
func (r *Redis) Thaw() error { return r.signal("thaw", syscall.SIGCONT) }

func (r *Redis) signal(verb string, signal syscall.Signal) error {
	pid := r.PID()
	if pid == 0 {
		return fmt.Errorf("%s Redis: it does not run", verb)
	}
	if err := syscall.Kill(pid, signal); err != nil {
		return fmt.Errorf("%s Redis: %w", verb, err)
	}
	return nil
}

// Restart stops and starts the server.
func (r *Redis) Restart(ctx context.Context) error {
	if err := r.Stop(ctx); err != nil {
		return err
	}
	return r.Start(ctx)
}

// Close ends the server at once and removes its directory.
func (r *Redis) Close() error {
	if err := r.supervisor.close(); err != nil {
		return fmt.Errorf("close Redis: %w", err)
	}
	return nil
}
