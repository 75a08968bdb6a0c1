package freshet_test

import (
	"context"
	"strings"
	"testing"

	"github.com/freshet/freshet"
	"github.com/freshet/freshet/freshetmsgpack"
)

// TestCompressedCodecs: whatever a codec makes is compressed, and comes back to the one that made it.
func TestCompressedCodecs(t *testing.T) {
	t.Parallel()
	s := published(t)
	cache, other := open(t, freshet.Options{Config: s.file}), open(t, freshet.Options{Config: s.file})
	want := strings.Repeat("line\n", 1000)
	loads := 0
	load := freshet.Load(func(context.Context, freshet.Querier, string) (string, error) {
		loads++
		return want, nil
	})
	for id, option := range map[string]freshet.Option[string, string]{
		"json": nil, "msgpack": freshet.WithCodec[string, string](freshetmsgpack.Codec{}),
	} {
		options := []freshet.Option[string, string]{load}
		if option != nil {
			options = append(options, option)
		}
		loads = 0
		for _, c := range []*freshet.Cache{cache, other} {
			reports := entry(t, c, "report", options...)
			for range 2 {
				if got, err := reports.Get(t.Context(), id); err != nil || got != want {
					t.Errorf("%s: %d bytes, %v", id, len(got), err)
				}
			}
		}
		if loads != 1 {
			t.Errorf("%s: %d loads, want 1", id, loads)
		}
	}
}
