package redisstore

import "github.com/freshet/freshet/internal/store"

//nolint:revive // what this package is asked in and answers in is the same for every store, and described there
type (
	Batch         = store.Batch
	Expected      = store.Expected
	FillRequest   = store.FillRequest
	Filled        = store.Filled
	Filling       = store.Filling
	Found         = store.Found
	Held          = store.Held
	LaneHead      = store.LaneHead
	LeaseReply    = store.LeaseReply
	Leased        = store.Leased
	Leasing       = store.Leasing
	Live          = store.Live
	MismatchError = store.MismatchError
	Pinned        = store.Pinned
	PinnedMany    = store.PinnedMany
	Reading       = store.Reading
	RenewRequest  = store.RenewRequest
	Result        = store.Result
	Stamped       = store.Stamped
	Tied          = store.Tied
	Use           = store.Use
)

const (
	leaseMargin = store.LeaseMargin
	fenceLife   = store.FenceLife
)

var (
	// ErrUnavailable is store.ErrUnavailable.
	ErrUnavailable = store.ErrUnavailable
	// ErrNoPermission is store.ErrNoPermission.
	ErrNoPermission = store.ErrNoPermission
	// ErrOutOfMemory is store.ErrOutOfMemory.
	ErrOutOfMemory = store.ErrOutOfMemory
	// ErrSuperseded is store.ErrSuperseded.
	ErrSuperseded = store.ErrSuperseded
	// ErrRevision is store.ErrRevision.
	ErrRevision = store.ErrRevision
	// ErrSplit is store.ErrSplit.
	ErrSplit = store.ErrSplit
)
