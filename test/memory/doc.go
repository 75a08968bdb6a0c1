// Package memory proves the promises where no Redis is: the store is in the memory of the daemon's own process.
package memory
