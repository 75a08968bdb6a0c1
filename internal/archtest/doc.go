// Package archtest holds the architecture as tests: which package may import which, what each may link, and that the
// layer table of ARCHITECTURE.md says the same.
package archtest
