// Package spec explores the protocol of docs/protocol.md exhaustively, within stated bounds: writers, a standby, daemons
// that may pause and go on, readers with a cached roster, waiters, readers that ask for a transaction or a bound, sessions,
// strict commits, eviction, failover of the store to an older prefix of its history, a primary that crashes or is replaced,
// new generations, new tables, moving names and values that are tied to epochs, in every order of their single steps. In every state that can be reached
// the invariants must hold; and each piece of the protocol can be left out, and must then be missed. What is decided is
// decided by internal/fence, so that it is the code that is explored, not a retelling of it.
//
// A smaller model of its own (scheme) holds other schemes to the same question, and finds what they leave stale. A third one
// (placing) has several servers, between which keys move, and finds what keeps HEAD true of them. Two smaller ones are about
// conditional reads (renewing), and about sets of the keys that a tag affects, in the place of epochs (tagScheme).
//
// The models are test code. `make spec` (SPEC=deep) explores larger bounds than `make test` does, and prints the number of
// states of each configuration.
package spec
