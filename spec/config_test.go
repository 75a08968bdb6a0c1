package spec

import "slices"

// config bounds an exploration, and says what is left out of the protocol. Everything in without is false in a correct
// daemon, library or store.
type config struct {
	name      string
	txs       uint8
	daemons   int
	readers   []readerKind
	evictions uint8 // of the record or of HEAD
	failovers uint8 // 0 or 1, to any older prefix
	moves     uint8 // of names, by a running daemon
	retires   uint8 // of the second version of the entry, when there is one
	versions  bool  // two versions of the entry are live: the file's own, and one that only older libraries use
	empty     bool  // start without HEAD
	forget    bool  // PostgreSQL may forget what was confirmed
	safety    bool  // I3 is not asked for
	early     bool  // D1: delivered transactions are fenced before they are visible
	script    bool  // D3: confirms are by script, not by UNLINK
	without   without
}

type readerKind struct {
	runs  uint8
	early bool // its snapshot is opened before the lease, as a loader with its own transaction might
	old   bool // it uses the second version
	// standby: it loads from a standby, which replays the log as it likes.
	standby bool
}

// standby reports whether any reader loads from one.
func (c *config) standby() bool {
	return slices.ContainsFunc(c.readers, func(k readerKind) bool { return k.standby })
}

// without lists the pieces of the protocol that can be left out.
type without struct {
	gate            bool // D2: transactions are confirmed as soon as they are delivered
	floor           bool // R4: any snapshot may fill
	lease           bool // R5: FILL is a plain SET
	leaseBeforeRead bool // R2: HEAD is read before the lease
	compare         bool // D4: HEAD is advanced whatever it holds
	replid          bool // D4: the name of the store's history is not compared
	term            bool // all daemons have one term
	intentFirst     bool // D3: INTENT is sent after the confirms
	newGeneration   bool // 4.1: an absent HEAD is written again from memory
	roster          bool // R0: a cached roster is never confirmed again
	judgedAfter     bool // R0: the roster's validity is judged before the GET is sent
	wait            bool // D7: Wc does not wait until the old names are out of use
	claimWait       bool // D7: a daemon that takes over does not wait either
	republish       bool // a daemon that takes over leaves ROSTER as it is
	forgetDone      bool // D4: what was confirmed out of order is remembered across a lost history
	freshRevision   bool // D7: the next revision is the stored one plus one
	confirmFences   bool // D3: a confirm by script does not fence leases
	confirmCovers   bool // D3: a confirm by script keeps whatever value there is
	activation      bool // 4.1: a version that returns has its old name again
	position        bool // R3: a standby's snapshot is believed, which lists nothing as running
	priorPosition   bool // R3: a standby's position is read after the row
	intentFloor     bool // R4: a standby's position is held against Wc
	moveFloor       bool // R4: floors stay when names move
	confirmAll      bool // D7: only the file's own version is confirmed
	retireWait      bool // D7: Wc does not wait after a version was retired
}
