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
	keysOnly  bool  // of the record
	failovers uint8 // 0 or 1, to any older prefix
	oldMaster bool  // it goes on answering readers until they come over
	counts    uint8 // how often readers that do nothing else have the store count after a failover
	crashes   uint8 // 0 or 1: the primary recovers without what was visible and not flushed
	promotes  uint8 // 0 or 1: a standby takes the primary's place, and lacks what it has not replayed
	clock     bool  // Redis' clock passes the end of leases, and steps back
	moves     uint8 // of names, by a running daemon
	retires   uint8 // of the second version of the entry, when there is one
	versions  bool  // two versions of the entry are live: the file's own, and one that only older libraries use
	empty     bool  // start without HEAD
	cached    bool  // start with a value
	forget    bool  // PostgreSQL may forget what was confirmed
	safety    bool  // I3 is not asked for
	early     bool  // D1: delivered transactions are fenced before they are visible
	strict    bool  // the first transaction is a strict commit
	unheard   bool  // its second fences may fail to reach the store
	adds      bool  // D8: the entry's table joins the publication while transactions are open
	script    bool  // D3: confirms are by script, not by UNLINK
	epochs    uint8 // a value depends on so many, besides its key
	hits      [maxTxs]hit
	path      bool  // the first writer moves the value from what the first epoch stands for to what the second does
	others    uint8 // so many times do fills of other keys make an epoch
	resends   bool  // an answer to SET is lost, and the SET is late
	without   without
}

type readerKind struct {
	runs  uint8
	early bool // its snapshot is opened before the lease, as a loader with its own transaction might
	old   bool // it uses the second version
	// standby: it loads from a standby, which replays the log as it likes.
	standby bool
	joins   bool // R6: it waits for the other reader's load, as two readers of one process do
	token   bool // it asks for a transaction whose COMMIT has returned
	bounded bool // it asks for everything that was visible when it had the store count
	session bool // it asks for everything that it has seen, in this key and in others
	before  bool // it reads its epochs before it loads
}

func (k readerKind) demands() bool { return k.token || k.bounded || k.session }

// standby reports whether any reader loads from one.
func (c *config) standby() bool {
	return slices.ContainsFunc(c.readers, func(k readerKind) bool { return k.standby })
}

// demands reports whether any reader asks HEAD what a value contains.
func (c *config) demands() bool { return slices.ContainsFunc(c.readers, readerKind.demands) }

func (c *config) bounded() bool {
	return slices.ContainsFunc(c.readers, func(k readerKind) bool { return k.bounded })
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
	newGeneration   bool // an absent HEAD is written again from memory
	roster          bool // R0: a cached roster is never confirmed again
	judgedAfter     bool // R0: the roster's validity is judged before the GET is sent
	wait            bool // D7: Wc does not wait until the old names are out of use
	claimWait       bool // D7: a daemon that takes over does not wait either
	republish       bool // a daemon that takes over leaves ROSTER as it is
	forgetDone      bool // D4: what was confirmed out of order is remembered across a lost history
	freshRevision   bool // D7: the next revision is the stored one plus one
	confirmFences   bool // D3: a confirm by script does not fence leases
	confirmCovers   bool // D3: a confirm by script keeps whatever value there is
	activation      bool // a version that returns has its old name again
	position        bool // R3: a standby's snapshot is believed, which lists nothing as running
	priorPosition   bool // R3: a standby's position is read after the row
	intentFloor     bool // R4: a standby's position is held against Wc
	moveFloor       bool // R4: floors stay when names move
	confirmAll      bool // D7: only the file's own version is confirmed
	retireWait      bool // D7: Wc does not wait after a version was retired
	fits            bool // R6: a waiter takes the row of its lease's holder as it is
	sameLease       bool // R6: a waiter takes the row of whoever loads the key
	endedLease      bool // D3: a confirm by script fences no lease that has ended
	alive           bool // a database that lost transactions is followed as before
	intentCompares  bool // D4: INTENT is written whatever HEAD holds, and the history's name is taken from its answer
	headBeforeKey   bool // a token's reader reads HEAD after the value
	oneConnection   bool // a token's reader goes on with its HEAD on another connection
	saWaits         bool // D6: Sa does not wait until the log was read as far as its snapshot
	tickBefore      bool // D6: the count is read after the snapshot
	tickID          bool // counts have no id
	drawCount       bool // D6: a daemon that claims HEAD goes on with the count that it finds
	fenceBefore     bool // a strict commit puts up no fences before COMMIT
	fenceAgain      bool // nor after it
	admission       bool // D8: a new table's entries go live at once
	admitAgain      bool // D8: a daemon that takes over takes it that its predecessor has waited
	merges          bool // a session knows only what its last read has seen
	passed          bool // a session takes from a standby what Wc has not passed
	begun           bool // R5: S_b is not asked
	epochsFirst     bool // R5: S_b and floors are asked before the epochs are read
	epochFloor      bool // R5: the floors of the epochs' buckets are not asked under a standby
	rowFloor        bool // R3: a standby's row is handed out before they are
	waiterFloor     bool // R6: nor does a waiter ask for them
	headOfSets      bool // R5: HEAD is read from another server than the epochs were made on
	freshID         bool // R5: an epoch's id may have been used before
	sentOnce        bool // R5: a SET is repeated with its id
	overDead        bool // R5: a value that is not live any more keeps a fill out
	sameStatement   bool // R3: the tags come from a statement of their own
	coarse          bool // D3: a value does not depend on its rule's own epoch
	missing         bool // R1: an epoch that is missing is as good as another
	epochsAgain     bool // R1: a process goes on with the ids that it saw with its first read
	keyFirst        bool // R1: the epochs are read before the value
}
