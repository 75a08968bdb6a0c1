package fill

import (
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/freshet/freshet/internal/fence"
	"github.com/freshet/freshet/internal/memstore"
	"github.com/freshet/freshet/internal/pgload"
	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/mvcc"
)

// BenchmarkNote is what a load costs more for being noted: the first 64 of a second, and those that are only counted.
func BenchmarkNote(b *testing.B) {
	r := &Reader{store: memstore.New(memstore.Options{Namespace: "n"}), clock: store.Awake, process: process(), logger: slog.New(slog.DiscardHandler)}
	r.notes.begun = true // nobody is started to send them
	w := &want{e: &declared{name: "product"}, name: "f:n:0:product.0.0:product:7"}
	f := &flight{loaded: pgload.Loaded{Found: true, Payload: []byte("{}"), Coverage: fence.Coverage{Snapshot: mvcc.Snapshot{Xmin: 7, Xmax: 9, Xip: []mvcc.XID{8}}}}, took: time.Millisecond}
	b.Run("noted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if r.notes.stored == mostStored {
				r.notes.list, r.notes.stored = nil, 0
			}
			r.note(context.Background(), w, f)
		}
	})
	b.Run("counted", func(b *testing.B) {
		b.ReportAllocs()
		r.notes.stored = mostStored
		for b.Loop() {
			r.note(context.Background(), w, f)
		}
	})
}
