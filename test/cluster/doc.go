// Package cluster tests a real Redis Cluster under a daemon, writers and readers, some of them through a standby that lags: masters are
// killed and replaced by replicas that missed writes, slots are moved key by key, a node loses everything or is away. What is cached in the
// end is what the primary has, and every read with a token contains what the token names, whatever happens meanwhile.
package cluster
