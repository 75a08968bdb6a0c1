package localserver

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// account is who the servers run as. Its zero value is whoever runs this process.
type account struct {
	credential *syscall.Credential
}

// serverAccount picks an unprivileged account when this process is root's: PostgreSQL refuses to run as root.
func serverAccount() (account, error) {
	if os.Geteuid() != 0 {
		return account{}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUID := strconv.ParseUint(found.Uid, 10, 32)
		gid, errGID := strconv.ParseUint(found.Gid, 10, 32)
		if err := errors.Join(errUID, errGID); err != nil {
			return account{}, fmt.Errorf("read account %s: %w", name, err)
		}
		return account{credential: &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return account{}, errors.New("this is root, which PostgreSQL refuses, and there is neither an account postgres nor " +
		"nobody to run it as; run this as another user, or: useradd --system postgres")
}

// base is the temporary folder in which the account can make and remove its directories.
func (a account) base() (string, error) {
	if a.credential == nil {
		return os.TempDir(), nil
	}
	tried := []string{os.TempDir(), "/tmp", "/var/tmp"}
	for _, dir := range tried {
		if resolved, err := filepath.EvalSymlinks(dir); err == nil && openToAll(resolved) {
			return resolved, nil
		}
	}
	return "", fmt.Errorf("no temporary folder of %q can be used by an unprivileged server; set TMPDIR to one that "+
		"everybody may write to", tried)
}

// openToAll tells whether everybody can reach the folder and write to it.
func openToAll(dir string) bool {
	const search, write = 0o001, 0o002
	want := os.FileMode(search | write)
	for {
		info, err := os.Stat(dir)
		if err != nil || info.Mode().Perm()&want != want {
			return false
		}
		parent := filepath.Dir(dir)
		if parent == dir {
			return true
		}
		dir, want = parent, search
	}
}

// own gives the file to the account.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	if err := os.Chown(path, int(a.credential.Uid), int(a.credential.Gid)); err != nil {
		return fmt.Errorf("give %s to the server's account: %w", path, err)
	}
	return nil
}

// Ports below the range that Linux (32768) and macOS (49152) give to outgoing connections. From within that range a
// server that is down for a moment may not get its port back: a client that tries to reach it can even be given the
// very port as its own, and connect to itself.
const (
	lowestPort  = 20000
	highestPort = 32000
)

// FreePort finds a loopback port that nobody listens on.
func FreePort() (int, error) {
	var last error
	for range 100 {
		port := lowestPort + rand.IntN(highestPort-lowestPort) //nolint:gosec // a port, not a secret
		listener, err := net.ListenTCP("tcp4", &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: port})
		if err != nil {
			last = err
			continue
		}
		if err := listener.Close(); err != nil {
			return 0, fmt.Errorf("free port %d: %w", port, err)
		}
		return port, nil
	}
	return 0, fmt.Errorf("find free port: %w", last)
}
