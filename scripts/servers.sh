#!/usr/bin/env bash
# Installs the servers that the demo and the tests start privately, when they are missing: PostgreSQL (14 or newer) and
# Redis or Valkey; and, called with the word "tests", PgBouncer as well, which only tests start, wrk, which the benchmark
# of the gateway runs, and Chromium, in which tests look at the web page. Everything that it does is said on standard error; with all of them present it does and says nothing.
#
# Nothing of the user's is touched. Packages of Debian and Ubuntu start a service of their own when they are installed:
# those are kept from starting, now and at boot, but only the ones that this script itself has just installed.
set -euo pipefail

oldest_postgres=14
# Where the system's directories lie: tests of this script have some of their own.
root=${SERVERS_ROOT:-}

say() { printf 'servers: %s\n' "$*" >&2; }

# has_postgres looks in the places where internal/localserver looks.
has_postgres() {
  local program bin version
  for program in "$(command -v postgres || true)" "$root"/usr/lib/postgresql/*/bin/postgres "$root"/usr/pgsql-*/bin/postgres \
    "$root"/usr/local/bin/postgres "$root"/usr/local/pgsql/bin/postgres \
    "$root"/opt/homebrew/opt/postgresql@*/bin/postgres "$root"/usr/local/opt/postgresql@*/bin/postgres; do
    [ -x "$program" ] || continue
    bin=$(dirname "$(readlink -f "$program" 2>/dev/null || echo "$program")")
    [ -x "$bin/initdb" ] || continue
    version=$("$program" --version | sed -n 's/.*(PostgreSQL) \([0-9][0-9]*\).*/\1/p')
    if [ "${version:-0}" -ge "$oldest_postgres" ]; then return 0; fi
  done
  return 1
}

has_redis() {
  local program
  for program in redis-server valkey-server; do
    if command -v "$program" >/dev/null; then return 0; fi
    for dir in /usr/bin /usr/local/bin /opt/homebrew/bin; do
      if [ -x "$root$dir/$program" ]; then return 0; fi
    done
  done
  return 1
}

has_wrk() { command -v wrk >/dev/null || [ -x "$root/usr/bin/wrk" ]; }

has_pgbouncer() {
  local program
  for program in "$(command -v pgbouncer || true)" "$root"/usr/sbin/pgbouncer "$root"/usr/bin/pgbouncer \
    "$root"/usr/local/bin/pgbouncer "$root"/opt/homebrew/bin/pgbouncer; do
    if [ -n "$program" ] && [ -x "$program" ]; then return 0; fi
  done
  return 1
}

has_chromium() {
  local program
  for program in chromium chromium-browser google-chrome-stable google-chrome; do
    if command -v "$program" >/dev/null || [ -x "$root/usr/bin/$program" ] || [ -x "$root/snap/bin/$program" ]; then return 0; fi
  done
  [ -x "$root/Applications/Chromium.app/Contents/MacOS/Chromium" ] || [ -x "$root/Applications/Google Chrome.app/Contents/MacOS/Google Chrome" ]
}

as_root() {
  if [ "$(id -u)" -eq 0 ]; then
    "$@"
  else
    sudo "$@"
  fi
}

# install_apt installs packages without letting their services start.
install_apt() {
  local policy=$root/usr/sbin/policy-rc.d ours='' service
  if [ "$(id -u)" -ne 0 ] && ! command -v sudo >/dev/null; then
    say "this is not root, and there is no sudo; as root, run: apt-get install $*"
    return 1
  fi
  say "installing with apt-get: $*"
  if [ ! -e "$policy" ]; then
    say "keeping their services from starting ($policy, removed again afterwards)"
    printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
    as_root chmod 755 "$policy"
    ours=yes
    trap 'as_root rm -f '"$policy" EXIT
  fi
  as_root apt-get update -q >&2
  as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "$@" >&2 </dev/null
  if [ -n "$ours" ]; then
    as_root rm -f "$policy"
    trap - EXIT
  fi
  if command -v systemctl >/dev/null; then
    for service in "$@"; do
      if as_root systemctl disable "$service" >/dev/null 2>&1; then
        as_root systemctl stop "$service" >/dev/null 2>&1 || true # not running, or no systemd to ask
        say "the package's own service $service is neither running nor started at boot; to have it: systemctl enable --now $service"
      fi
    done
  fi
}

install_brew() {
  say "installing with brew: $* (no service is started)"
  brew install "$@" >&2
}

# install takes the name of a package in apt, and in brew, with the words before it.
install() {
  if command -v apt-get >/dev/null; then
    install_apt "$1"
  elif command -v brew >/dev/null; then
    # shellcheck disable=SC2086
    install_brew $2
  else
    say "there is neither apt-get nor brew here: install $3 yourself, so that it is found on PATH"
    return 1
  fi
}

# install_ubuntu_browser: Ubuntu's package of Chromium only installs a snap. Where there are no snaps, as in a container, it is Google's package.
install_ubuntu_browser() {
  if command -v snap >/dev/null && as_root snap list >/dev/null 2>&1; then
    say "installing with snap: chromium"
    as_root snap install chromium >&2
    return
  fi
  local machine file
  machine=$(dpkg --print-architecture)
  if [ "$machine" != amd64 ]; then
    say "there are no snaps here, and Google Chrome is for amd64 alone: install Chromium yourself, so that it is found on PATH"
    return 1
  fi
  install_apt curl ca-certificates
  file=$(mktemp --suffix=.deb)
  say "downloading Google Chrome"
  curl -fsSL -o "$file" https://dl.google.com/linux/direct/google-chrome-stable_current_amd64.deb
  chmod 644 "$file"
  install_apt "$file"
  rm -f "$file"
}

if ! has_postgres; then
  say "PostgreSQL $oldest_postgres or newer is missing"
  install postgresql postgresql@17 "PostgreSQL $oldest_postgres or newer"
  if ! has_postgres; then
    say "the package manager's PostgreSQL is older than $oldest_postgres: install a newer one, see https://www.postgresql.org/download/"
    exit 1
  fi
fi

if ! has_redis; then
  say "Redis or Valkey is missing"
  install redis-server redis "Redis or Valkey"
  if ! has_redis; then
    say "neither redis-server nor valkey-server is there after the installation"
    exit 1
  fi
fi

if [ "${1:-}" = tests ] && ! has_pgbouncer; then
  say "PgBouncer is missing, which tests need"
  install pgbouncer pgbouncer PgBouncer
  if ! has_pgbouncer; then
    say "pgbouncer is not there after the installation"
    exit 1
  fi
fi

if [ "${1:-}" = tests ] && ! has_wrk; then
  say "wrk is missing, which the benchmark of the gateway needs"
  install wrk wrk wrk
  if ! has_wrk; then
    say "wrk is not there after the installation"
    exit 1
  fi
fi

if [ "${1:-}" = tests ] && ! has_chromium; then
  say "Chromium is missing, in which tests look at the web page"
  if grep -qs '^ID=ubuntu' "$root/etc/os-release"; then
    install_ubuntu_browser
  else
    install chromium "--cask chromium" "Chromium or Google Chrome"
  fi
  if ! has_chromium; then
    say "chromium is not there after the installation: install Chromium or Google Chrome, so that it is found on PATH"
    exit 1
  fi
fi
