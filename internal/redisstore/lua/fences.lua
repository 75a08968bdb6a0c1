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

-- number is what 16 digits say that is too small for a double to round.
local function number(digits)
  return tonumber(string.sub(digits, 1, 8), 16) * 4294967296 + tonumber(string.sub(digits, 9), 16)
end

-- drop removes a live value that does not contain the transaction, and answers what it found. With marks, one that says how
-- long it is kept is stale from now on, and says since when.
local function drop(r, x, e, marks)
  local live = r.state == 'V' or r.state == 'N'
  if r.state == '-' or marks and not live then return 'fenced' end
  if live and covers(coverage(r.coverage), x, e) then return 'kept' end
  if marks and r.keep then
    r.kept = math.max(math.ceil(number(r.keep) / 1000), 1)
    r.state, r.keep = string.lower(r.state), hex16(clock())
  else
    empty(r)
  end
  return 'removed'
end

-- leased is for how many milliseconds a record's lease lasts.
local function leased(r)
  if not r.token then return 0 end
  return math.min(math.max(math.ceil((number(r.ends) - clock()) / 1000), 0), 86400000)
end

-- store writes what became of a record. Without a value it lives as long as its lease and some milliseconds more; with one that
-- was just marked as long as that is kept, and no shorter.
local function store(r, life)
  if r.state == '-' and not r.token and r.fences == '-' then
    redis.call('UNLINK', KEYS[1])
    return
  end
  local text = write(r)
  if text == r.text then return end
  if r.state ~= '-' then
    redis.call('SET', KEYS[1], text, 'KEEPTTL')
    if r.kept then
      redis.call('PEXPIRE', KEYS[1], string.format('%.0f', r.kept), 'LT')
      if r.token then redis.call('PEXPIRE', KEYS[1], string.format('%.0f', leased(r) + life), 'GT') end
    end
    return
  end
  redis.call('SET', KEYS[1], text, 'PX', string.format('%.0f', leased(r) + life))
end
