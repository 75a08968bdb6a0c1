-- LEASE (R2). KEYS[1] record; ARGV: token, milliseconds that the lease lasts, milliseconds that a record without a
-- value outlives its lease, and what the epochs field of a value says that is dead: such a value goes. Answers granted (1 or 0), the record as it is now stored, the clock.
local now = clock()
local stamp = hex16(now)
local r = read(KEYS[1])
if r.token and stamp < r.ends then
  return { 0, r.text, stamp }
end
if ARGV[4] and r.state ~= '-' and (r.epochs or '-') == ARGV[4] then empty(r) end
r.token, r.ends = ARGV[1], hex16(now + tonumber(ARGV[2]) * 1000)
local text = write(r)
if r.state == '-' then
  redis.call('SET', KEYS[1], text, 'PX', tonumber(ARGV[2]) + tonumber(ARGV[3]))
else
  redis.call('SET', KEYS[1], text, 'KEEPTTL')
  -- A stale value is not to take the lease along when its time is over.
  if r.state == 'v' or r.state == 'n' then redis.call('PEXPIRE', KEYS[1], tonumber(ARGV[2]) + tonumber(ARGV[3]), 'GT') end
end
return { 1, text, stamp }
