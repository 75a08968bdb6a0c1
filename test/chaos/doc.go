// Package chaos runs freshet under load and breaks what it stands on: the daemon is killed, frozen, outlived by a
// second one; Redis is emptied, rolled back, filled up; PostgreSQL crashes and forgets what it had not flushed. At
// points where everything has come to rest, each value that is cached must equal what the database answers, byte for
// byte; between the faults, no reader may see a value for long that a commit has superseded. There is no product code
// in it.
package chaos
