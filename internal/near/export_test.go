package near

// Expected is how many names are being read.
func (s *Store) Expected() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.expected)
}

// Ties is how many epochs something is tied to.
func (s *Store) Ties() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
	return len(s.ties)
}
