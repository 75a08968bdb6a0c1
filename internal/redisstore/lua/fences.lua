-- Shared by EARLY and CONFIRM; the same decisions in Go are in internal/fence. What a reader's script must never meet, a
-- record of a layout that is not known here, is read as an empty one, so that both scripts replace or remove it.
local maxfences = 16

-- fences returns the list of a record's fences, each {x, e}.
local function fences(r)
  local list = {}
  for x, e in string.gmatch(r.fences, '(%x+)%.(%x+)') do list[#list + 1] = { x, e } end
  return list
end

local function setfences(r, list)
  if #list == 0 then
    r.fences = '-'
    return
  end
  local text = {}
  for i, f in ipairs(list) do text[i] = f[1] .. '.' .. f[2] end
  r.fences = table.concat(text, ',')
end

-- fence adds one to a list. Where there is one for the transaction, the lower position holds.
local function fence(list, x, e)
  for _, f in ipairs(list) do
    if f[1] == x then
      if e < f[2] then f[2] = e end
      return
    end
  end
  list[#list + 1] = { x, e }
end

-- drop removes a live value that does not contain the transaction, and answers what it found.
local function drop(r, x, e)
  if r.state ~= 'V' and r.state ~= 'N' then return 'fenced' end
  if covers(coverage(r.coverage), x, e) then return 'kept' end
  empty(r)
  return 'removed'
end

-- store writes what became of a record. Without a value it lives as long as its lease and some milliseconds more.
local function store(r, life)
  if r.state == '-' and not r.token and r.fences == '-' then
    redis.call('UNLINK', KEYS[1])
    return
  end
  local text = write(r)
  if text == r.text then return end
  if r.state ~= '-' then
    redis.call('SET', KEYS[1], text, 'KEEPTTL')
    return
  end
  local left = 0
  if r.token then
    local ends = tonumber(string.sub(r.ends, 1, 8), 16) * 4294967296 + tonumber(string.sub(r.ends, 9), 16)
    left = math.min(math.max(math.ceil((ends - clock()) / 1000), 0), 86400000)
  end
  redis.call('SET', KEYS[1], text, 'PX', string.format('%.0f', left + life))
end
