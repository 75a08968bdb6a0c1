-- Gives an unused lease back. KEYS[1] record; ARGV: token. Answers 1 if the lease was there.
local r = read(KEYS[1])
if r.token ~= ARGV[1] then return 0 end
r.token = nil
if r.state == '-' and r.fences == '-' then
  redis.call('UNLINK', KEYS[1])
else
  redis.call('SET', KEYS[1], write(r), 'KEEPTTL')
end
return 1
