-- What CONFIRM mostly meets, decided first as in EARLY: one transaction, and nothing but its own fence, or nothing at all.
if #ARGV == 3 then
  local head = redis.call('GETRANGE', KEYS[1], 0, 191)
  if head == '' then return 'absent' end
  if head == 'f1 - - - ' .. ARGV[2] .. '.' .. ARGV[3] .. ' - - 0000000000000000\n' then
    redis.call('UNLINK', KEYS[1])
    return 'fenced'
  end
end
