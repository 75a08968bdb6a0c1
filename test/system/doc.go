// Package system drives the real program from outside, through what takes more than one process: daemons that are
// stopped, killed and replaced, and libraries that share a cache. There is no product code in it.
package system
