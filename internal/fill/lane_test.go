package fill_test

import (
	"context"
	"testing"

	"github.com/freshet/freshet/internal/fill"
	"github.com/freshet/freshet/internal/keytext"
)

// TestManyOutlivedByOneOfItsKeys: keys are loaded together past the cache, for longer than a read of one of them that came later waits for that.
// It loads by itself, is done before they are, and takes nothing from under them.
func TestManyOutlivedByOneOfItsKeys(t *testing.T) {
	t.Parallel()
	for name, demand := range map[string]*fill.Demand{"the store is of no use": {}, "asked for": {Past: true}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t, options{noDaemon: !demand.Past})
			if demand.Past {
				w.batches()
			}
			loader := &statements{Loader: w.loader}
			w.loads = 2 * hurried // of which a load waits a quarter for the one before
			r := w.reader(nil, loader)
			entered := make(chan struct{})
			loader.before = func([][]keytext.Arg) {
				close(entered)
				pause(t, hurried*7/10) // less than the half of it that a statement for many has
			}
			done := make(chan map[string]int, 1)
			go func() { done <- readMany(t, r, demand, []int{1, 2, 3}, nil) }()
			<-entered
			ctx, cancel := context.WithTimeout(t.Context(), 6*hurried)
			defer cancel()
			v, err := r.GetUnder(ctx, "product", arg("2"), nil, demand)
			if err != nil || string(v.Payload) != price(2, 20) {
				t.Errorf("the read of one: %s, %v", v.Payload, err)
			}
			if statuses := <-done; statuses["bypass"] != 3 {
				t.Errorf("the read of many: %v", statuses)
			}
			read := func() string {
				v, err := r.GetUnder(ctx, "product", arg("2"), nil, demand)
				return string(v.Payload) + " " + v.Status.String() + errText(err)
			}
			if got := read(); got != price(2, 20)+" bypass" {
				t.Errorf("afterwards: %s", got)
			}
		})
	}
}

func errText(err error) string {
	if err != nil {
		return ": " + err.Error()
	}
	return ""
}
