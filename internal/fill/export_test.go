package fill

// Size is how many tokens a session holds.
func (s *Session) Size() int { return len(s.tokens) }
