-- Shared by the scripts on HEAD. Each answers 'applied', 'mismatch' or 'superseded', the server's replication id, and,
-- unless applied, HEAD as it is.
local function replid()
  local text = redis.call('INFO', 'replication')
  local _, at = string.find(text, 'master_replid:', 1, true)
  return at and string.sub(text, at + 1, at + 40) or ''
end

local function answer(outcome, id)
  local reply = { outcome, id }
  if outcome ~= 'applied' then
    for _, v in ipairs(redis.call('HGETALL', KEYS[1])) do reply[#reply + 1] = v end
  end
  return reply
end

-- compare judges what the daemon expects: generation, with the lane's own behind it, term, wc, replid. A lane's HEAD names the
-- history that it was begun in.
local function compare(generation, term, wc, id, expected)
  local h = redis.call('HMGET', KEYS[1], 'gen', 'term', 'wc', 'at', 'lane')
  if not h[1] or not h[2] or not h[3] then return 'mismatch' end
  if h[2] > term then return 'superseded' end
  if h[2] ~= term or h[1] .. (h[5] or '') ~= generation or id ~= expected or h[4] and h[4] ~= id then return 'mismatch' end
  if h[3] > wc then return 'superseded' end
  if h[3] < wc then return 'mismatch' end
  return 'applied'
end
