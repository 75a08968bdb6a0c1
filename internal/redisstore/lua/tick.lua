-- Counts a tick. KEYS[1] tick; ARGV: a random id, under which the count begins when it is not there. Answers the tick.
local text = redis.call('GET', KEYS[1])
local id, high, low
if text then id, high, low = string.match(text, '^(%x+)%.(%x%x%x%x%x%x%x%x)(%x%x%x%x%x%x%x%x)$') end
if not id or string.len(id) ~= 16 then id, high, low = ARGV[1], '0', '0' end
-- Halves, since a number here is a double.
high, low = tonumber(high, 16), tonumber(low, 16) + 1
if low == 4294967296 then high, low = high + 1, 0 end
text = string.format('%s.%08x%08x', id, high, low)
redis.call('SET', KEYS[1], text)
return text
