-- Shared by the scripts on records. The layout is in docs/redis.md, the same decisions in Go are in internal/fence.
-- Numbers are 16 small hexadecimal digits throughout: compared as strings, never as Lua's doubles.

-- now is the server's clock in microseconds, as 16 digits.
local function hex16(n)
  return string.format('%08x%08x', math.floor(n / 4294967296), n % 4294967296)
end

local function clock()
  local t = redis.call('TIME')
  return tonumber(t[1]) * 1000000 + tonumber(t[2])
end

-- read returns a record's fields, or those of an empty one. What is not in this layout counts as empty: its lease and
-- fences are one with it, so nothing is lost that a fill could still need.
local function read(key)
  local text = redis.call('GET', key)
  if text then
    local at = string.find(text, '\n', 1, true)
    if at then
      local head = string.sub(text, 1, at - 1)
      local state, lease, fences, coverage, version, filled =
        string.match(head, '^f1 ([-VNvn]) %- (%S+) (%S+) (%S+) (%S+) (%x+)$')
      local keep, epochs
      if not state then
        local flags, more
        state, flags, lease, fences, coverage, version, filled, more =
          string.match(head, '^f1 ([VNvn]) (k?t?) (%S+) (%S+) (%S+) (%S+) (%x+) (.*)$')
        if flags == 'k' then
          keep = string.match(more, '^%x+$')
        elseif flags == 't' then
          epochs = string.match(more, '^%S+$')
        elseif flags == 'kt' then
          keep, epochs = string.match(more, '^(%x+) (%S+)$')
        end
        if not keep and not epochs or keep == '0000000000000000' then state = nil end
      end
      if state then
        local token, ends = string.match(lease, '^(%x+)%.(%x+)$')
        return { state = state, token = token, ends = ends, fences = fences, coverage = coverage, version = version,
          filled = filled, keep = keep, epochs = epochs, payload = string.sub(text, at + 1), text = text }
      end
    end
  end
  return { state = '-', fences = '-', coverage = '-', version = '-', filled = '0000000000000000', payload = '' }
end

-- empty takes the value out of a record, and leaves lease and fences.
local function empty(r)
  r.state, r.coverage, r.version, r.filled, r.keep, r.epochs, r.payload = '-', '-', '-', '0000000000000000', nil, nil, ''
end

local function write(r)
  local lease, flags, more = '-', '', ''
  if r.token then lease = r.token .. '.' .. r.ends end
  if r.keep then flags, more = 'k', ' ' .. r.keep end
  if r.epochs then flags, more = flags .. 't', more .. ' ' .. r.epochs end
  if flags == '' then flags = '-' end
  return table.concat({ 'f1', r.state, flags, lease, r.fences, r.coverage, r.version, r.filled }, ' ') .. more .. '\n' .. r.payload
end
