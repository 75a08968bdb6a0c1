// Package chaos runs freshet under load and breaks what it stands on. The daemon is killed, frozen, outlived by a second
// one; Redis is emptied, rolled back, filled up, frozen; PostgreSQL crashes and forgets what it had not flushed; its
// replica lags, stands still, dies, is promoted; applications and psql are killed and frozen in the midst of what they
// do; each way between two of them is cut, hangs, is slow; clocks jump by an hour. Some processes hold values in their
// memory, and one does not. Meanwhile every read is held against
// what it was promised, by what is known of the writes. At points where everything has come to rest, each value that is
// cached must equal what the database answers, byte for byte. There is no product code in it.
//
// TestChaosInACluster, and TestChaos with -chaos.cluster, do so where the store is a Redis Cluster: nodes are killed and replaced by replicas
// that missed writes, frozen, flushed, emptied, and slots are moved key by key, or half-way and no further. Nodes say by
// themselves where they are, so that the ways to them are not harmed there, nor their clocks.
//
// SEED decides what is written and read and which fault comes when; how these meet in time it cannot decide. A fault by
// itself: go test ./test/chaos -v -run 'TestChaos$' -chaos.time=60s -chaos.only='the replica'.
//
// # What it sees
//
// TestChaosCatchesBreaches plants what every one of its judgements has to report. Besides, pieces of the protocol were
// taken out of the product, one at a time, and the test run for a minute or less. It reports that these are missing:
//
//   - the gate (T2); the floor under a standby (T13), also when INTENT does not raise it; the comparison of a load with the
//     fences of its record; early fences together with those that a CONFIRM leaves;
//   - that a standby's value is covered by its position (T6), and that this is read before the row (T11, T12);
//   - that names are confirmed (T19); that crash recovery is a gap (T20); that a waiter asks how new the row is (T28);
//   - the judgement of tokens, of bounds, of sessions, and of sessions over values from a standby; both fences of a strict
//     commit.
//
// It does not report these, each of which has something behind it, or a window that is too small to be met by chance:
// the lease that a fill needs (fences and the order of values are compared besides); the fences of a CONFIRM alone (the
// early ones are there); either fence of a strict commit alone; a position that is read in the very statement that reads the
// row; a count of ticks that is read just after the snapshot; HEAD's comparison, the name of the history in it, and terms
// (what breaks Redis here breaks the daemon's connection as well, and it reads HEAD anew). For these there are the model and
// the tests of docs/cases.md, which force the order of events.
package chaos
