-- RENEW (R5): FILL of the payload that is there. KEYS[1] record; ARGV: token, coverage, row version, milliseconds to live,
-- for how long the value is kept once it is invalidated ('-': not at all), and the epochs that the value is tied to from now on, if there are any. Answers the outcome and the clock.
local now = hex16(clock())
local r = read(KEYS[1])
local refused = admit(r, ARGV[1], ARGV[2], now)
if refused then return { refused, now } end
if r.state ~= 'V' and r.state ~= 'N' then return { 'no_value', now } end

redis.call('SET', KEYS[1], write({ state = r.state, fences = '-', coverage = ARGV[2],
  version = ARGV[3], filled = now, keep = ARGV[5] ~= '-' and ARGV[5] or nil, epochs = ARGV[6], payload = r.payload }), 'PX', ARGV[4])
return { 'renewed', now }
