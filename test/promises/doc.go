// Package promises holds reads with tokens, sessions and bounds against what they were promised, under faults.
package promises
