// Package demo tells a story about caches on real servers: a shop in a private PostgreSQL, a private Redis, the daemon
// as a process of its own, readers through the gateway and the library, and beside them the cache-aside code that most
// applications have. Each step breaks something on purpose and measures what readers see; whether a step held is
// computed from what was observed and from nothing else.
package demo
