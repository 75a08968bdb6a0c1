-- FILL (R5). KEYS[1] record; ARGV: token, coverage, state, row version, payload, milliseconds to live.
-- Answers the outcome and the clock.
local now = hex16(clock())
local r = read(KEYS[1])
local token, coverage = ARGV[1], ARGV[2]
if r.token ~= token then return { 'no_lease', now } end
if now >= r.ends then return { 'lease_ended', now } end

local kind, rest = string.sub(coverage, 1, 2), string.sub(coverage, 3)
local seen = kind == 's:' and snapshot(rest)
for x, e in string.gmatch(r.fences, '(%x+)%.(%x+)') do
  local covers = false
  if seen then
    covers = sees(seen, x)
  elseif kind == 'l:' then
    covers = e <= rest
  end
  if not covers then return { 'not_covering', now } end
end

if (r.state == 'V' or r.state == 'N') and r.coverage ~= '-' then
  local newer = false
  local oldkind, oldrest = string.sub(r.coverage, 1, 2), string.sub(r.coverage, 3)
  if seen and oldkind == 's:' then
    local old = snapshot(oldrest)
    newer = old and dominates(seen, old)
  elseif kind == 'l:' and oldkind == 'l:' then
    newer = rest >= oldrest
  end
  if not newer then return { 'not_newer', now } end
end

redis.call('SET', KEYS[1], write({ state = ARGV[3], flags = '-', fences = '-', coverage = coverage,
  version = ARGV[4], filled = now, payload = ARGV[5] }), 'PX', ARGV[6])
return { 'filled', now }
