package watermark

// Held counts what is remembered, which is what a Tracker's memory follows.
func (t *Tracker) Held() int { return len(t.entries) - t.head }
