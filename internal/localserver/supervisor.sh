# Keeps the servers of one directory. Its standard input is a pipe whose other end only the parent holds.
#
# Each line is a signal and a command to run in the background; "started PID" and "exited CODE" are said about it. When
# the input ends, because the parent closed it or died in whatever way, the command gets the signal and the directory,
# which this script made, goes away.
#
# The parent may die between any two lines of this script. That is why the signal is never sent to a number kept in a
# file: it goes to the shell that is the command's parent, which either has not started the command yet and dies, or
# has its trap set and passes the signal on.
finish() {
	# A stopped process sees no signal but KILL until it is continued.
	kill -s "$signal" "$child" 2>/dev/null
	kill -s CONT "$child" 2>/dev/null
}

supervise() {
	signal=$1
	child=
	ended=
	trap 'ended=1; [ -z "$child" ] || finish' USR1
	(
		trap - HUP INT TERM PIPE USR1
		eval "exec $2"
	) </dev/null >>"$dir/server.log" 2>&1 &
	child=$!
	[ -z "$ended" ] || finish
	echo "started $child" 2>/dev/null
	wait "$child"
	code=$?
	while kill -0 "$child" 2>/dev/null; do # the trap ends a wait early
		wait "$child"
		code=$?
	done
	echo "exited $code" 2>/dev/null
}

main() {
	exec 3<&- # where this script came from
	trap '' HUP INT TERM PIPE
	umask 077
	mkdir "$dir" || exit 1
	cd "$dir" || exit 1
	echo made
	runner=
	while read -r signal command; do
		supervise "$signal" "$command" &
		runner=$!
	done

	if [ -n "$runner" ]; then
		kill -s USR1 "$runner" 2>/dev/null
		wait "$runner"
	fi

	# Children of a killed server may still write for a moment.
	tries=0
	while rm -rf "$dir" 2>/dev/null; [ -d "$dir" ] && [ "$tries" -lt 100 ]; do
		tries=$((tries + 1))
		sleep 0.1
	done
}

# Nothing happens before the last line has come: a parent that dies while it writes this script leaves nothing either.
dir=$1
main
