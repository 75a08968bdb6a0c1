// Package history takes Redis' history away under load, with real daemons, readers and writers: an empty restart, an old
// dump, a failover to a replica that missed writes, eviction under every policy, keys deleted by hand, a clock that jumps,
// connections that are cut. After each, everything that is cached is compared with the database.
package history
