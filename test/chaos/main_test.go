package chaos

import (
	"context"
	"flag"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"testing"

	"github.com/freshet/freshet/internal/testkit"
)

var (
	// chaosTime makes the run a long one: every fault in an order drawn from the seed, over and over.
	chaosTime = flag.Duration("chaos.time", 0, "how long to run; 0 is the short form: the most important faults, once")
	// chaosCluster has TestChaos break a Redis Cluster.
	chaosCluster = flag.Bool("chaos.cluster", false, "the store is a Redis Cluster")
	// chaosOnly looks at one fault closely.
	chaosOnly = flag.String("chaos.only", "", "only faults whose name contains this")
)

func TestMain(m *testing.M) {
	if text := os.Getenv(applicationVariable); text != "" {
		if err := work(context.Background(), text); err != nil {
			fmt.Fprintln(os.Stderr, "application:", err)
			os.Exit(1) //nolint:forbidigo // this is the application's main
		}
		os.Exit(0) //nolint:forbidigo // this is the application's main
	}
	testkit.Main(m)
}

// seedOf is SEED from the environment, or drawn. It decides what is written and read and which fault comes when; how
// these meet in time it cannot decide.
func seedOf(t *testing.T) uint64 {
	t.Helper()
	text := os.Getenv("SEED")
	if text == "" {
		return rand.Uint64()
	}
	seed, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		t.Fatalf("SEED: %v", err)
	}
	return seed
}
