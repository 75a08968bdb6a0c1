package daemon_test

import (
	"strings"
	"testing"
)

// TestGatewayHoldsNothingInMemory: a gateway asks the store for each read, and so is no later than the store: with the file that has the
// library hold values.
func TestGatewayHoldsNothingInMemory(t *testing.T) {
	t.Parallel()
	w := newWorld(t, false)
	w.start()
	w.ready()
	w.until("/v1/entries/product/7", hit)
	const reads = 5
	for range reads {
		if a := w.get("/v1/entries/product/7"); a.cache != "hit" {
			t.Errorf("%+v", a)
		}
	}
	a := w.get("/v1/status")
	if !strings.Contains(a.body, `"hits_l1":0,`) || strings.Contains(a.body, `"l1":`) || strings.Contains(a.body, `"hits":0,`) {
		t.Errorf("status: %s", a.body)
	}
}
