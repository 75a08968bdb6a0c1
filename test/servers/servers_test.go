// Package servers tests scripts/servers.sh, which installs what demo and tests need, on machines that lack it: the system's
// directories and its package manager are stand-ins, since no test may install packages.
package servers

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// machine is one that the script runs on.
type machine struct {
	root, bin, log string
}

// newMachine has the programs that the script is written in, and those given: name and what they do.
func newMachine(t *testing.T, programs map[string]string) *machine {
	t.Helper()
	dir := t.TempDir()
	m := &machine{root: filepath.Join(dir, "root"), bin: filepath.Join(dir, "bin"), log: filepath.Join(dir, "log")}
	for _, d := range []string{m.bin, filepath.Join(m.root, "usr", "sbin")} {
		if err := os.MkdirAll(d, 0o700); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"bash", "sh", "sed", "dirname", "readlink", "tee", "chmod", "rm", "env", "mkdir", "cat", "ls"} {
		path, err := exec.LookPath(name)
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(path, filepath.Join(m.bin, name)); err != nil {
			t.Fatal(err)
		}
	}
	for name, does := range programs {
		m.program(t, filepath.Join(m.bin, name), does)
	}
	return m
}

func (m *machine) program(t *testing.T, path, does string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	// A process that another test starts meanwhile would hold the file open, and who is open for writing cannot be run.
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	if err := os.WriteFile(path, []byte("#!/bin/bash\n"+does+"\n"), 0o700); err != nil {
		t.Fatal(err)
	}
}

// run runs the script and returns what it said, what it had done, and whether it succeeded.
func (m *machine) run(t *testing.T, args ...string) (said string, done []string, ok bool) {
	t.Helper()
	script, err := filepath.Abs("../../scripts/servers.sh")
	if err != nil {
		t.Fatal(err)
	}
	c := exec.CommandContext(t.Context(), "bash", append([]string{script}, args...)...)
	c.Env = []string{"PATH=" + m.bin, "SERVERS_ROOT=" + m.root, "LOG=" + m.log}
	var stderr, stdout bytes.Buffer
	c.Stderr, c.Stdout = &stderr, &stdout
	err = c.Run()
	if stdout.Len() > 0 {
		t.Errorf("standard output: %s", stdout.String())
	}
	text, readErr := os.ReadFile(m.log)
	if readErr != nil && !os.IsNotExist(readErr) {
		t.Fatal(readErr)
	}
	return stderr.String(), strings.Split(strings.TrimSpace(string(text)), "\n"), err == nil
}

// The stand-ins. apt-get and brew put down what was asked for, and write down whether services could start meanwhile.
const (
	root     = `echo 0`
	nobody   = `echo 1000`
	sudo     = `echo "sudo $*" >>"$LOG"; exec "$@"`
	server   = `mkdir -p "$(dirname "$1")"; printf '#!/bin/bash\n%s\n' "$2" >"$1"; chmod 700 "$1"`
	postgres = `put() { ` + server + `; }
for word in "$@"; do case $word in
postgresql | postgresql@17) put "$dir/postgres" "echo 'postgres (PostgreSQL) ${VERSION:-17.2}'"; put "$dir/initdb" true ;;
redis-server | redis) put "$SERVERS_ROOT/usr/bin/redis-server" true ;;
pgbouncer) put "$SERVERS_ROOT/usr/sbin/pgbouncer" true ;;
wrk) put "$SERVERS_ROOT/usr/bin/wrk" true ;;
chromium) put "$SERVERS_ROOT/usr/bin/chromium" true ;;
*.deb) put "$SERVERS_ROOT/usr/bin/google-chrome-stable" true ;;
esac; done`
	apt = `echo "apt-get $*" >>"$LOG"
[ "$1" = install ] || exit 0
[ -x "$SERVERS_ROOT/usr/sbin/policy-rc.d" ] || echo "services could start" >>"$LOG"
dir=$SERVERS_ROOT/usr/lib/postgresql/17/bin
` + postgres
	brew = `echo "brew $*" >>"$LOG"
dir=$SERVERS_ROOT/opt/homebrew/opt/postgresql@17/bin
` + postgres
	systemctl = `echo "systemctl $*" >>"$LOG"`
)

const (
	aptInstall = "apt-get install -q -y --no-install-recommends "
	aptUpdate  = "apt-get update -q"
)

func same(t *testing.T, got, want []string) {
	t.Helper()
	if strings.Join(got, "\n") != strings.Join(want, "\n") {
		t.Errorf("it did\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestAptAsRoot(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"id": root, "apt-get": apt, "systemctl": systemctl})
	said, done, ok := m.run(t, "tests")
	if !ok {
		t.Fatal(said)
	}
	var want []string
	for _, name := range []string{"postgresql", "redis-server", "pgbouncer", "wrk", "chromium"} {
		want = append(want, aptUpdate, aptInstall+name, "systemctl disable "+name, "systemctl stop "+name)
		if !strings.Contains(said, "installing with apt-get: "+name) || !strings.Contains(said, "to have it: systemctl enable --now "+name) {
			t.Errorf("it does not say what it does with %s:\n%s", name, said)
		}
	}
	same(t, done, want)
	if _, err := os.Stat(filepath.Join(m.root, "usr", "sbin", "policy-rc.d")); !os.IsNotExist(err) {
		t.Errorf("the policy that keeps services from starting is left behind (%v)", err)
	}
	if err := os.Remove(m.log); err != nil {
		t.Fatal(err)
	}
	if said, done, ok = m.run(t, "tests"); !ok || said != "" || strings.Join(done, "") != "" {
		t.Errorf("with everything there it did %q and said %q (%v)", done, said, ok)
	}
}

// TestUbuntuBrowser: Ubuntu's package of Chromium is a snap, which a container cannot have.
func TestUbuntuBrowser(t *testing.T) {
	t.Parallel()
	there := map[string]string{"id": root, "apt-get": apt, "dpkg": "echo amd64", "curl": `echo "curl ${@: -1}" >>"$LOG"`, "mktemp": `echo "$SERVERS_ROOT/x.deb"; : >"$SERVERS_ROOT/x.deb"`}
	machine := func(programs map[string]string) *machine {
		m := newMachine(t, programs)
		for _, name := range []string{"grep", "readlink"} {
			if path, err := exec.LookPath(name); err == nil {
				_ = os.Symlink(path, filepath.Join(m.bin, name))
			}
		}
		if err := os.MkdirAll(filepath.Join(m.root, "etc"), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(m.root, "etc", "os-release"), []byte("NAME=\"Ubuntu\"\nID=ubuntu\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		return m
	}
	m := machine(there)
	if said, done, ok := m.run(t, "tests"); !ok || !strings.Contains(strings.Join(done, "\n"), "curl https://") || !strings.Contains(said, "downloading Google Chrome") {
		t.Errorf("without snaps: %v %s\n%s", ok, strings.Join(done, "\n"), said)
	}
	there["snap"] = `echo "snap $*" >>"$LOG"; [ "$1" != install ] || { put() { ` + server + `; }; put "$SERVERS_ROOT/snap/bin/chromium" true; }`
	m = machine(there)
	if said, done, ok := m.run(t, "tests"); !ok || done[len(done)-1] != "snap install chromium" {
		t.Errorf("with snaps: %v %s\n%s", ok, strings.Join(done, "\n"), said)
	}
	delete(there, "snap")
	there["dpkg"] = "echo arm64"
	m = machine(there)
	if said, _, ok := m.run(t, "tests"); ok || !strings.Contains(said, "install Chromium yourself") {
		t.Errorf("where there is neither: %v %s", ok, said)
	}
}

func TestPolicyOfTheMachineStays(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"id": root, "apt-get": apt})
	policy := filepath.Join(m.root, "usr", "sbin", "policy-rc.d")
	m.program(t, policy, "exit 101 # the administrator's")
	if said, done, ok := m.run(t); !ok {
		t.Error(said)
	} else {
		same(t, done, []string{aptUpdate, aptInstall + "postgresql", aptUpdate, aptInstall + "redis-server"})
	}
	if text, err := os.ReadFile(policy); err != nil || !strings.Contains(string(text), "the administrator's") {
		t.Errorf("the policy that was there is %q (%v)", text, err)
	}
}

func TestAptWithSudo(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"id": nobody, "apt-get": apt, "sudo": sudo})
	said, done, ok := m.run(t)
	if !ok || !strings.Contains(strings.Join(done, "\n"), "sudo env DEBIAN_FRONTEND=noninteractive "+aptInstall+"postgresql") {
		t.Errorf("it did %q and said %s", done, said)
	}
}

func TestWhatItCannotDo(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name     string
		programs map[string]string
		want     string
	}{
		{"neither root nor sudo", map[string]string{"id": nobody, "apt-get": apt}, "as root, run: apt-get install postgresql"},
		{"no package manager", map[string]string{"id": root}, "install PostgreSQL 14 or newer yourself, so that it is found on PATH"},
		{"an old PostgreSQL", map[string]string{"id": root, "apt-get": "VERSION=13.4\n" + apt}, "PostgreSQL is older than 14: install a newer one"},
		{"an installation that fails", map[string]string{"id": root, "apt-get": "exit 100"}, "installing with apt-get: postgresql"},
		{"nothing after it", map[string]string{"id": root, "apt-get": "true", "postgres": "echo 'postgres (PostgreSQL) 16.1'", "initdb": "true"}, "neither redis-server nor valkey-server is there"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			m := newMachine(t, tt.programs)
			said, _, ok := m.run(t)
			if ok || !strings.Contains(said, tt.want) {
				t.Errorf("it succeeded: %v, and said %s", ok, said)
			}
			if _, err := os.Stat(filepath.Join(m.root, "usr", "sbin", "policy-rc.d")); !os.IsNotExist(err) {
				t.Errorf("the policy that keeps services from starting is left behind (%v)", err)
			}
		})
	}
}

func TestBrew(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"id": nobody, "brew": brew})
	said, done, ok := m.run(t, "tests")
	if !ok || !strings.Contains(said, "no service is started") {
		t.Errorf("it said %s", said)
	}
	same(t, done, []string{"brew install postgresql@17", "brew install redis", "brew install pgbouncer", "brew install wrk", "brew install --cask chromium"})
}

func TestValkeyWillDo(t *testing.T) {
	t.Parallel()
	m := newMachine(t, map[string]string{"id": root, "postgres": "echo 'postgres (PostgreSQL) 14.0'", "initdb": "true", "valkey-server": "true"})
	if said, _, ok := m.run(t); !ok || said != "" {
		t.Errorf("it said %s", said)
	}
}
