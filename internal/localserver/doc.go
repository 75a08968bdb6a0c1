// Package localserver starts private PostgreSQL and Redis or Valkey servers for the demo and for tests: real programs
// found on this machine, in a directory of their own, on a free loopback port, as an unprivileged user, and gone
// afterwards, also when the process that started them is killed.
//
// Each server has a small shell as its parent, whose standard input is a pipe that only this process holds. Whichever
// way this process ends, the kernel closes the pipe, and the shell ends the server and removes its directory.
package localserver
