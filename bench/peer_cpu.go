package main

import (
	"bytes"
	"os"
	"path/filepath"
	"strconv"
	"strings"
)

// usage is processor time in seconds, by process. It is 0 on systems without /proc.
type usage struct{ self, follower, redis, postgres float64 }

func (u usage) since(before usage) usage {
	return usage{
		self: u.self - before.self, follower: u.follower - before.follower,
		redis: u.redis - before.redis, postgres: u.postgres - before.postgres,
	}
}

// usage is what the processes concerned have used by now.
func (a *arena) usage(e *entrant) usage {
	u := usage{self: cpuOf(os.Getpid()).own, redis: cpuOf(a.b.servers.redis.PID()).own}
	if e.follower != nil {
		u.follower = cpuOf(e.follower.cmd.Process.Pid).own
	}
	// A backend's time is its own while it lives, and the postmaster's children's afterwards.
	postmaster := a.b.servers.pg.PID()
	server := cpuOf(postmaster)
	u.postgres = server.own + server.ended
	stats, _ := filepath.Glob("/proc/[0-9]*/stat") // the pattern is well formed
	for _, path := range stats {
		if p := cpuAt(path); p.parent == postmaster {
			u.postgres += p.own
		}
	}
	return u
}

// processTime is a process's time in seconds, and that of its children which have ended.
type processTime struct {
	parent     int
	own, ended float64
}

func cpuOf(pid int) processTime { return cpuAt("/proc/" + strconv.Itoa(pid) + "/stat") }

func cpuAt(path string) (p processTime) {
	text, err := os.ReadFile(path) //nolint:gosec // below /proc
	if err != nil {
		return p // it ended, or there is no /proc
	}
	// The fields behind the program's name, which may hold anything, brackets included.
	fields := strings.Fields(string(text[bytes.LastIndexByte(text, ')')+1:]))
	const parent, user, system, endedUser, endedSystem = 1, 11, 12, 13, 14
	if len(fields) <= endedSystem {
		return p
	}
	number := func(field int) float64 {
		n, _ := strconv.ParseFloat(fields[field], 64)
		return n
	}
	const ticks = 100 // a second, for every program on Linux
	return processTime{
		parent: int(number(parent)),
		own:    (number(user) + number(system)) / ticks,
		ended:  (number(endedUser) + number(endedSystem)) / ticks,
	}
}
