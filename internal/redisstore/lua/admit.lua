-- Shared by FILL and RENEW; the same decision in Go is in internal/fence. admit answers why a load may not decide what the
-- record's value is, or nil when it may.
local function admit(r, token, covered, now)
  if r.token ~= token then return 'no_lease' end
  if now >= r.ends then return 'lease_ended' end
  local c = coverage(covered)
  for x, e in string.gmatch(r.fences, '(%x+)%.(%x+)') do
    if not covers(c, x, e) then return 'not_covering' end
  end
  if (r.state == 'V' or r.state == 'N') and r.coverage ~= '-' and not follows(c, coverage(r.coverage)) then return 'not_newer' end
  return nil
end
