package store

import (
	"time"

	"github.com/freshet/freshet/internal/fence"
)

// Reading is one record of several, with the epochs that are asked for together with it.
type Reading struct {
	Name   string
	Epochs []string
}

// Found is what came of a Reading.
type Found struct {
	Tied
	Head      fence.Head // where it was asked for: read before the record, on the same connection
	HeadFound bool
	Err       error
}

// Leasing asks for the right to fill one key of several, as LeaseOver does.
type Leasing struct {
	Name  string
	Dead  string
	Token fence.Token
	Lasts time.Duration
}

// Leased is what came of a Leasing.
type Leased struct {
	LeaseReply
	Err error
}

// Filling is one value of several to store.
type Filling struct {
	Name string
	FillRequest
}

// Filled is what came of a Filling.
type Filled struct {
	Outcome fence.FillOutcome
	Err     error
}

// PinnedMany is what came of one key of PinMany.
type PinnedMany struct {
	Pinned
	Err error
}
