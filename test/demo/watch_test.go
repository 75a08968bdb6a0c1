package demo_test

import (
	"bytes"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"testing"
)

// watch keeps what a process writes, to look at while it runs.
type watch struct {
	mu  sync.Mutex
	all bytes.Buffer
}

func (w *watch) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.Write(p)
}

func (w *watch) text() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.all.String()
}

// has is nil when the text was written.
func (w *watch) has(text string) error {
	if all := w.text(); !strings.Contains(all, text) {
		return fmt.Errorf("%q is not in:\n%s", text, all)
	}
	return nil
}

// find is the first group of the pattern in what was written.
func (w *watch) find(t *testing.T, pattern string) string {
	t.Helper()
	match := regexp.MustCompile(pattern).FindStringSubmatch(w.text())
	if match == nil {
		t.Fatalf("%s matches nothing of:\n%s", pattern, w.text())
	}
	return match[1]
}
