-- INTENT (D3). KEYS[1] HEAD; ARGV: generation, term, wc, replid, position, si, then the fields that rise to the position, the
-- floors ('wi', which is everybody's, or those of buckets), and those that are to see what si sees, of buckets whose epochs
-- are about to be ended ('st', or 's' and a number). All of it only grows.
local function grow(old, new)
  local a, b = snapshot(old or '-'), snapshot(new)
  if not a then return new end
  if not b then return old end
  if b.high > a.high then a, b = b, a end
  local running = {}
  for x in string.gmatch(a.running, '%x+') do
    if not sees(b, x) then running[#running + 1] = x end
  end
  return (running[1] or a.high) .. ':' .. a.high .. ':' .. table.concat(running, ',')
end
local id = replid()
local outcome = compare(ARGV[1], ARGV[2], ARGV[3], id, ARGV[4])
if outcome ~= 'applied' then return answer(outcome, id) end
local fields = { 'si', grow(redis.call('HGET', KEYS[1], 'si'), ARGV[6]) }
if ARGV[7] then
  for i, old in ipairs(redis.call('HMGET', KEYS[1], unpack(ARGV, 7))) do
    local name = ARGV[6 + i]
    if string.sub(name, 1, 1) == 's' then
      fields[#fields + 1] = name
      fields[#fields + 1] = grow(old, ARGV[6])
    elseif not old or ARGV[5] > old then
      fields[#fields + 1] = name
      fields[#fields + 1] = ARGV[5]
    end
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
return answer(outcome, id)
