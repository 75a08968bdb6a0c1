package fill

import (
	"context"
	"fmt"

	"github.com/freshet/freshet/internal/keytext"
)

// Spelled says where the store keeps a key.
type Spelled struct {
	Key    string   // its text, as the entry's template spells it
	Name   string   // of its record; empty where nothing of the entry may be cached now
	Epochs string   // what the names of epochs that its values are tied to begin with
	Tied   []string // those that every value of it is tied to, without what they begin with
	Why    string   // without a Name: the reason, as Value.Reason has it
}

// Spell spells a key, and the name under which it is cached now. It reads nothing of it.
func (r *Reader) Spell(ctx context.Context, entry string, args []keytext.Arg) (Spelled, error) {
	e := r.entries[entry]
	if e == nil {
		return Spelled{}, fmt.Errorf("entry %s: %w", entry, ErrUnknownEntry)
	}
	if n := len(e.template.Params()); len(args) != n {
		return Spelled{}, fmt.Errorf("entry %s: it takes %d arguments, not %d: %w", entry, n, len(args), ErrArguments)
	}
	at := Spelled{Key: string(e.template.Append(nil, args))}
	c, _ := r.names(ctx)
	live, why := c.live(e)
	if live != nil {
		if live.ties != nil {
			at.Tied = live.ties.certain(args)
		}
		var name []byte
		if name, _, why = c.spell(nil, live, e.template, args); why == 0 {
			at.Name, at.Epochs = string(name), string(name[:c.keyFrom(live)-1])
			return at, nil
		}
	}
	at.Why = why.String()
	return at, nil
}
