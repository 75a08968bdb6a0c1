-- FILL (R5). KEYS[1] record; ARGV: token, coverage, state, row version, payload, milliseconds to live, for how
-- long the value is kept once it is invalidated ('-': not at all), and the epochs that the value is tied to, if there are any. Answers the outcome and the clock.
local now = hex16(clock())
local r = read(KEYS[1])
local refused = admit(r, ARGV[1], ARGV[2], now)
if refused then return { refused, now } end

redis.call('SET', KEYS[1], write({ state = ARGV[3], fences = '-', coverage = ARGV[2],
  version = ARGV[4], filled = now, keep = ARGV[7] ~= '-' and ARGV[7] or nil, epochs = ARGV[8], payload = ARGV[5] }), 'PX', ARGV[6])
return { 'filled', now }
