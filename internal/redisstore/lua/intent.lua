-- INTENT (D3). KEYS[1] HEAD; ARGV: generation, term, wc, replid, position, si, then whose floors rise to the position:
-- 'wi', which is everybody's, or the fields of buckets, or nothing. Floors and Si only grow.
local id = replid()
local outcome = compare(ARGV[1], ARGV[2], ARGV[3], id, ARGV[4])
if outcome ~= 'applied' then return answer(outcome, id) end
local si = redis.call('HGET', KEYS[1], 'si')
local a, b = snapshot(si or '-'), snapshot(ARGV[6])
if not a then
  si = ARGV[6]
elseif b then
  if b.high > a.high then a, b = b, a end
  local running = {}
  for x in string.gmatch(a.running, '%x+') do
    if not sees(b, x) then running[#running + 1] = x end
  end
  si = (running[1] or a.high) .. ':' .. a.high .. ':' .. table.concat(running, ',')
end
local fields = { 'si', si }
if ARGV[7] then
  local floors = redis.call('HMGET', KEYS[1], unpack(ARGV, 7))
  for i, floor in ipairs(floors) do
    if not floor or ARGV[5] > floor then
      fields[#fields + 1] = ARGV[6 + i]
      fields[#fields + 1] = ARGV[5]
    end
  end
end
redis.call('HSET', KEYS[1], unpack(fields))
return answer(outcome, id)
