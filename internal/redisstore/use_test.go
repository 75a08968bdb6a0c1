package redisstore

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/freshet/freshet/internal/store"
	"github.com/freshet/freshet/internal/testkit"
	"github.com/freshet/freshet/internal/testkit/redistest"
)

func TestUses(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Shared(t))
	short, long, never := Use{Entry: "product", Definition: "a"}, Use{Entry: "product", Definition: "b"}, Use{Entry: "product", Definition: "c"}
	other := Use{Entry: "list", Definition: "d"}
	if err := s.Register(t.Context(), short, "web-1", 50*time.Millisecond); err != nil {
		t.Fatal(err)
	}
	if err := s.Register(t.Context(), long, strings.Repeat("w", 1000)+"\n", time.Hour); err != nil {
		t.Fatal(err)
	}
	if err := s.client.Do(t.Context(), s.client.B().Lpush().Key(s.useKey(other)).Element("x").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	testkit.Eventually(t, 10*time.Second, func() error {
		found, err := s.Uses(t.Context(), []Use{short, long, never, other})
		if diff := cmp.Diff(map[Use]string{long: strings.Repeat("w", store.LongestUser)}, found); err == nil && diff != "" {
			err = fmt.Errorf("Uses (-want +got):\n%s", diff)
		}
		return err
	})
	if found, err := s.Uses(t.Context(), nil); err != nil || len(found) != 0 {
		t.Errorf("Uses of none = %v, %v", found, err)
	}
}

// A full server refuses fills. To lose its users' versions as well would make it worse.
func TestRegisterGoesOnWhenRedisIsFull(t *testing.T) {
	t.Parallel()
	s := open(t, redistest.Start(t, "--maxmemory-policy", "noeviction"))
	if err := s.client.Do(t.Context(), s.client.B().ConfigSet().ParameterValue().ParameterValue("maxmemory", "1").Build()).Error(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Lease(t.Context(), s.testName("k"), token('a'), time.Second); !errors.Is(err, ErrOutOfMemory) {
		t.Fatalf("Lease on a full server = %v", err)
	}
	if err := s.Register(t.Context(), Use{Entry: "product", Definition: "a"}, "web-1", time.Hour); err != nil {
		t.Error(err)
	}
}
