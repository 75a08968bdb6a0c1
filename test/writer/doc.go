// Package writer kills processes that write through the cache, at every point of a commit.
package writer
