package fence

// Renewing is what a RENEW says: that the database had, under Coverage, the very value that the answer to the LEASE showed.
type Renewing struct {
	Token      Token
	Coverage   Coverage
	RowVersion string // as the load that compared has found it; empty when it found none
	Keep       int64
	Epochs     []Epoch
}

// Renew is RENEW: FILL without the payload, for a load which found that nothing has changed (R5). It is accepted where a
// FILL of the same bytes would be, and does what that would do.
//
// The token stands for the value as well as for the right to replace it. The value that was compared came with the grant,
// in one step, and whatever puts another one in its place takes the lease along: a FILL uses it up, an UNLINK or an
// eviction takes the record, another LEASE has another token. EARLY and CONFIRM leave the lease and may take the value:
// then there is nothing to renew, and the reader may FILL with the payload that it has.
func Renew(r Record, n Renewing, now int64) (Record, FillOutcome) {
	if refused := refuse(&r, n.Token, n.Coverage, now); refused != 0 {
		return r, refused
	}
	if !r.State.Live() {
		return r, NoValue
	}
	return Record{
		State: r.State, Coverage: n.Coverage, RowVersion: n.RowVersion, Filled: now, Keep: n.Keep, Epochs: n.Epochs, Payload: r.Payload,
	}, Renewed
}
