-- What EARLY mostly meets, decided before anything else is looked at: one transaction, and a live value under no lease or
-- fence which does not contain it, or nothing. A script that Redis has not run for a millisecond costs most by the
-- memory that it touches, and until this one is done the value is still there. It reads no further than it must, so the
-- size of the value does not matter either.
if #ARGV == 4 then
  local x = ARGV[3]
  local head = redis.call('GETRANGE', KEYS[1], 0, 191)
  local low, high, running = string.match(head, '^f1 [VN] [-z] %- %- s:(%x+):(%x+):([%x,]*) ')
  if head == '' and ARGV[2] == '1' or low and x >= low and (x >= high or string.find(running, x, 1, true)) then
    redis.call('SET', KEYS[1], 'f1 - - - ' .. x .. '.' .. ARGV[4] .. ' - - 0000000000000000\n', 'PX', ARGV[1])
    return low and 'removed' or 'fenced'
  end
end
