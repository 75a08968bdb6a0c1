package pgurl_test

import (
	"testing"

	"github.com/freshet/freshet/internal/testkit"
)

func TestMain(m *testing.M) { testkit.Main(m) }
