package freshettest_test

import (
	"context"
	"fmt"
	"os"
	"slices"
	"testing"
)

// inTest is for examples, which have no test: what a test would log as its failure is printed.
func inTest() *shown {
	ctx, cancel := context.WithCancel(context.Background())
	return &shown{ctx: ctx, cancel: cancel}
}

// shown is the testing.TB of an example.
type shown struct {
	testing.TB

	ctx      context.Context
	cancel   context.CancelFunc
	cleanups []func()
}

// end is what the end of a test does.
func (s *shown) end() {
	s.cancel()
	for _, do := range slices.Backward(s.cleanups) {
		do()
	}
}

func (*shown) Helper()                    {}
func (s *shown) Context() context.Context { return s.ctx }
func (s *shown) Cleanup(do func())        { s.cleanups = append(s.cleanups, do) }

func (*shown) Errorf(format string, args ...any) {
	_, _ = fmt.Fprintf(os.Stdout, "FAIL: "+format+"\n", args...)
}

func (*shown) Fatal(args ...any)                 { panic(fmt.Sprint(args...)) }
func (*shown) Fatalf(format string, args ...any) { panic(fmt.Sprintf(format, args...)) }
