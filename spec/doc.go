// Package spec explores the protocol of docs/protocol.md exhaustively, within stated bounds: a writer, daemons that may
// pause and go on, readers with a cached roster, eviction, failover of the store to an older prefix of its history, new
// generations and moving names, in every order of their single steps. In every state that can be reached the invariants
// must hold; and each piece of the protocol can be left out, and must then be missed. What is decided is decided by
// internal/fence, so that it is the code that is explored, not a retelling of it.
//
// The model is test code. `make spec` (SPEC=deep) explores larger bounds than `make test` does.
package spec
