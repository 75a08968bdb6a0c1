// Package mend drives `freshet check --fix` against real servers, ends it in the middle, and measures what it costs in log.
package mend
