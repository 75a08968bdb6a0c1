package pgload_test

import (
	"testing"
	"time"

	"github.com/freshet/freshet/internal/testkit"
)

func eventually(t *testing.T, check func() error) {
	t.Helper()
	testkit.Eventually(t, 10*time.Second, check)
}
