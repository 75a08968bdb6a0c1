# Becomes the program in its arguments, which a watcher keeps from outliving the process that started it.
#
# Descriptor 3 is a pipe whose other end only that process holds. A line on it says that all is well and the program has
# been waited for. An end without a line, in whatever way the process died, kills the program.
{ read -r _ <&3 || kill -9 $$; } </dev/null >/dev/null 2>&1 &
exec "$@" 3<&-
