// Package chaos runs freshet under load and breaks what it stands on. The daemon is killed, frozen, outlived by a second
// one; Redis is emptied, rolled back, filled up, frozen; PostgreSQL crashes and forgets what it had not flushed; its
// replica lags, stands still, dies, is promoted; applications and psql are killed and frozen in the midst of what they
// do; each way between two of them is cut, hangs, is slow; clocks jump by an hour. Meanwhile every read is held against
// what it was promised, by what is known of the writes. At points where everything has come to rest, each value that is
// cached must equal what the database answers, byte for byte. There is no product code in it.
package chaos
