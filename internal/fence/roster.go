package fence

// Published says which roster a store has.
type Published struct {
	Generation string `json:"generation"`
	Term       Term   `json:"term"`
	Revision   uint64 `json:"revision"`
}

// Publish judges whether a roster may take the place of the one that is stored (D7): not when that is of a later daemon, nor
// when it is of a later revision of the same one.
func Publish(stored, next Published) HeadOutcome {
	switch {
	case stored.Term > next.Term:
		return Superseded
	case stored.Term == next.Term && stored.Generation == next.Generation && stored.Revision > next.Revision:
		return Mismatch
	}
	return Applied
}
