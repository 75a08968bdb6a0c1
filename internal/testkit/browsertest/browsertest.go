// Package browsertest gives tests a real browser: Chromium, without a window.
package browsertest

import (
	"context"
	"fmt"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/chromedp/chromedp"

	"github.com/freshet/freshet/internal/testkit"
)

// names are what Chromium is called where it is installed.
func names() []string {
	return []string{
		"chromium", "chromium-browser", "google-chrome-stable", "google-chrome", "/snap/bin/chromium", "/Applications/Chromium.app/Contents/MacOS/Chromium",
		"/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
	}
}

// Tab is a tab of a browser of its own.
type Tab struct {
	tb  testing.TB
	ctx context.Context //nolint:containedctx // chromedp's handle of a tab

	mu     sync.Mutex
	errors []string
}

// Open starts a browser with a window of a size. A machine without one fails the test.
func Open(tb testing.TB, width, height int) *Tab {
	tb.Helper()
	path := ""
	for _, name := range names() {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		tb.Fatalf("there is no Chromium: install the package chromium (scripts/servers.sh tests does), or put one of %s on PATH", strings.Join(names()[:4], ", "))
	}
	options := append(chromedp.DefaultExecAllocatorOptions[:],
		chromedp.ExecPath(path), chromedp.NoSandbox, chromedp.WindowSize(width, height), chromedp.WSURLReadTimeout(time.Minute),
		chromedp.Flag("disable-gpu", true), chromedp.Flag("disable-dev-shm-usage", true))
	allocator, stop := chromedp.NewExecAllocator(tb.Context(), options...)
	ctx, closeTab := chromedp.NewContext(allocator)
	t := &Tab{tb: tb, ctx: ctx}
	t.Do(chromedp.EmulateViewport(int64(width), int64(height)))
	said := chromedp.Console(ctx)
	heard := make(chan struct{})
	go func() {
		defer close(heard)
		for m, err := range said {
			if err != nil {
				return // the tab is closed
			}
			if m.Type == chromedp.ConsoleError || m.Type == chromedp.ConsoleWarning || m.IsException() {
				t.mu.Lock()
				t.errors = append(t.errors, m.String())
				t.mu.Unlock()
			}
		}
	}()
	tb.Cleanup(func() {
		closeTab()
		stop()
		<-heard
	})
	return t
}

// Complaints are the exceptions, errors and warnings since the tab was opened, without those that hold one of some texts.
func (t *Tab) Complaints(without ...string) (all []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, said := range t.errors {
		expected := false
		for _, text := range without {
			expected = expected || strings.Contains(said, text)
		}
		if !expected {
			all = append(all, said)
		}
	}
	return all
}

// Do does things in the tab, within a minute.
func (t *Tab) Do(actions ...chromedp.Action[chromedp.Void]) {
	t.tb.Helper()
	if err := within(t, func() error { return chromedp.Do(t.ctx, actions...) }); err != nil {
		t.tb.Fatalf("the browser: %v", err)
	}
}

// Goto loads a page.
func (t *Tab) Goto(url string) {
	t.tb.Helper()
	t.Do(chromedp.Navigate(url))
}

// Click clicks what a CSS selector finds first.
func (t *Tab) Click(selector string) {
	t.tb.Helper()
	t.Do(chromedp.Click(chromedp.CSS(selector)))
}

// Set sets the value of a field.
func (t *Tab) Set(selector, value string) {
	t.tb.Helper()
	t.Do(chromedp.SetValue(chromedp.CSS(selector), value))
}

// Eval evaluates an expression to a text.
func (t *Tab) Eval(expression string) (text string) {
	t.tb.Helper()
	err := within(t, func() (err error) {
		text, err = chromedp.Run(t.ctx, chromedp.Evaluate[string]("String("+expression+")"))
		return err
	})
	if err != nil {
		t.tb.Fatalf("the browser: %s: %v", expression, err)
	}
	return text
}

// Await waits until an expression is a text that holds another.
func (t *Tab) Await(expression, want string) (text string) {
	t.tb.Helper()
	testkit.Eventually(t.tb, 30*time.Second, func() error {
		if text = t.Eval(expression); !strings.Contains(text, want) {
			return fmt.Errorf("%s is %q, which does not hold %q", expression, text, want)
		}
		return nil
	})
	return text
}

// within does not use a timeout of the tab's context: the first one that is run under owns the browser.
func within(t *Tab, do func() error) error {
	t.tb.Helper()
	const patience = time.Minute
	done := make(chan error, 1)
	go func() { done <- do() }()
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case err := <-done:
		return err
	case <-timer.C:
		return fmt.Errorf("it is not done after %s", patience)
	}
}
