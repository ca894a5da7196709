"""What Redis does in one step: a Lua script a verb. ``ARGV`` begins with what `redis_room` tells every script.

An answer is a word, and what it brings, apart by spaces:

    LOST             other books than the known ones are there, or none
    LATE now         the question was too long on its way, and nothing was done
    OK               it is done
    NO, GONE         no such hold stands, or it was charged before
    USED             the id of the hold is in use
    COUNT n          the hold has n claims, another number than was given
    H posted held limit …   the hold stands; three figures for each claim
    S dead posted held limit …   there is no room; how many dead processes may have holds; the figures
    C posted held limit … amount …   it is charged; the figures, and then what was added for each claim
    R …, B …, E …    sums, books and entries as they are read
    N n, T now …     how many were ended; the time, and for some the mark of the books
"""

from __future__ import annotations

from tokenmeter.budgets.redis_lua import (
    CHARGE,
    ESTIMATED_MS,
    KNOWN,
    MARKS,
    NUMBERS,
    SHELF,
    START,
    Script,
)

HOLD = """
local owner, life, id, again = ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local before = hold_of(id)
if before then
  if again ~= '1' or before[1] ~= owner then return 'USED' end
  undo(id, before)
end
local answer, hold, changed, ok = {}, {owner}, {}, again ~= 'look'
for at = 8, #ARGV, 6 do
  local key, amount, limit, flags, until_ms, label = unpack(ARGV, at, at + 5)
  for n = at, at + 5 do hold[#hold + 1] = ARGV[n] end
  local posted, held, leased, known, top = '0', '0', '0', nil, limit
  if not alone(flags) then
    posted, held, leased, known = book(key)
    top = add(top, raised(key), 1)
  end
  local after = add(held, amount, 1)
  if not alone(flags) then changed[#changed + 1] = {at, posted, held, after, leased, known} end
  if flags:sub(1, 1) == 'e' and not fits(add(posted, after, 1), top) then ok = false end
  answer[#answer + 1] = posted .. ' ' .. held .. ' ' .. top
end
local told = table.concat(answer, ' ')
if not ok then
  -- Else a limit that was lowered would never be shown.
  for _, change in ipairs(changed) do
    local at, posted, held, _, leased, known = unpack(change, 1, 6)
    if known and known ~= ARGV[at + 2] then
      name(ARGV[at], ARGV[at + 4], ARGV[at + 5])
      put(ARGV[at], posted, held, leased, ARGV[at + 2])
    end
  end
  local dead = call('ZRANGEBYSCORE', owners, '-inf', now, 'LIMIT', 0, 1)
  return 'S ' .. #dead .. ' ' .. told
end
for _, change in ipairs(changed) do
  local at, posted, _, held, leased, known = unpack(change, 1, 6)
  local key, amount, limit = ARGV[at], ARGV[at + 1], ARGV[at + 2]
  if known ~= limit then name(key, ARGV[at + 4], ARGV[at + 5]) end
  put(key, posted, held, is_lease(id) and add(leased, amount, 1) or leased, limit)
end
keep(id, hold)
call('ZADD', mine, 0, owner .. ' ' .. id)
call('ZADD', owners, now + life, owner)
return 'H ' .. told
"""

SENT = """
local id, note = ARGV[4], ARGV[5]
if call('HEXISTS', holds, id) == 0 then return 'NO' end
call(note == '' and 'HSETNX' or 'HSET', notes, id, note)
return 'OK'
"""

SETTLE = """
local id, row, many = ARGV[4], ARGV[5], #ARGV - 5
local hold, known, stands_at = hold_of(id)
local before = {}
if hold then
  if #hold ~= 1 + 6 * many then return 'COUNT ' .. (#hold - 1) / 6 end
  call('SET', KEYS[14], 'c')
  undo(id, hold)
else
  hold, known, stands_at = estimate_of(KEYS[14])
  if not hold then return 'NO' end
  if #hold ~= 1 + 6 * many then return 'COUNT ' .. (#hold - 1) / 6 end
  before = retract(hold)
end
return 'C ' .. charge(id, hold, 6, row, stands_at) .. added(hold, 6, before)
"""

POST = """
local id, row, many = ARGV[4], ARGV[5], ARGV[6]
local claims = {'', fresh = true}
for n = 7 + many, #ARGV do claims[#claims + 1] = ARGV[n] end
local before, stands_at = {}, nil
local hold = hold_of(id)
if hold then
  call('SET', KEYS[14], 'c')
  undo(id, hold)
else
  local estimate, known, at = estimate_of(KEYS[14])
  if estimate then
    before, stands_at = retract(estimate), at
  elseif known then
    return 'NO'
  end
end
return 'C ' .. charge(id, claims, 7, row, stands_at) .. added(claims, 7, before)
"""

RELEASE = """
local id = ARGV[4]
local hold = hold_of(id)
if not hold then return 'NO' end
undo(id, hold)
return 'OK'
"""

ADJUST = """
local id, many = ARGV[4], #ARGV - 4
local hold = hold_of(id)
if not hold then return 'GONE' end
if #hold ~= 1 + 6 * many then return 'COUNT ' .. (#hold - 1) / 6 end
local ok, short, answer, changed = true, {}, {}, {}
for n = 1, many do
  local at = 6 * n - 4
  local key, before, limit, flags, amount = hold[at], hold[at + 1], hold[at + 2], hold[at + 3], ARGV[4 + n]
  local posted, held, leased, top = '0', '0', '0', limit
  if not alone(flags) then
    posted, held, leased = book(key)
    held = add(held, before, -1)
    top = add(top, raised(key), 1)
  end
  local after = add(held, amount, 1)
  if flags:sub(1, 1) == 'e' and not fits(amount, before) and not fits(add(posted, after, 1), top) then
    ok = false
  end
  short[#short + 1] = before .. ' ' .. posted .. ' ' .. held .. ' ' .. top
  answer[#answer + 1] = posted .. ' ' .. held .. ' ' .. top
  if not alone(flags) then
    if is_lease(id) then leased = add(add(leased, before, -1), amount, 1) end
    changed[#changed + 1] = {at, posted, after, leased, limit}
  end
  hold[at + 1] = amount
end
if not ok then
  local dead = call('ZRANGEBYSCORE', owners, '-inf', now, 'LIMIT', 0, 1)
  return 'S ' .. #dead .. ' ' .. table.concat(short, ' ')
end
keep(id, hold)
for _, change in ipairs(changed) do
  local at, posted, held, leased, limit = unpack(change)
  local _, _, _, known = book(hold[at])
  if known ~= limit then name(hold[at], hold[at + 4], hold[at + 5]) end
  put(hold[at], posted, held, leased, limit)
end
return 'H ' .. table.concat(answer, ' ')
"""

PEEK = """
local hold = hold_of(ARGV[4])
if not hold then return 'GONE' end
return hold
"""

# ARGV: ids of holds, then of each entry id, row, number of charges, and key and amount of each.
DRAW = """
local holders, at = {}, 5 + ARGV[4]
local before, touched = {}, {}
for n = 5, at - 1 do
  local hold = hold_of(ARGV[n])
  if hold then holders[#holders + 1] = {ARGV[n], hold} end
end
local mark = 13
while at <= #ARGV do
  local id, row, many = ARGV[at], ARGV[at + 1], tonumber(ARGV[at + 2])
  mark = mark + 1
  if call('EXISTS', KEYS[mark]) == 0 then
    local charges = {}
    for n = at + 3, at + 2 + 2 * many, 2 do
      local key, amount = ARGV[n], ARGV[n + 1]
      local posted, held, leased, limit = book(key)
      if not before[key] then
        before[key] = posted
        touched[#touched + 1] = key
      end
      local left = amount
      for _, holder in ipairs(holders) do
        local hold = holder[2]
        for c = 2, #hold, 6 do
          if hold[c] == key and not alone(hold[c + 3]) then
            local covered = hold[c + 1]
            if fits(left, covered) then covered = left end
            left = add(left, covered, -1)
            held = add(held, covered, -1)
            if is_lease(holder[1]) then leased = add(leased, covered, -1) end
            hold[c + 1] = add(hold[c + 1], covered, -1)
            holder.changed = true
          end
        end
      end
      put(key, add(posted, amount, 1), held, leased, limit or '0')
      charges[#charges + 1] = {key, amount}
    end
    entry(id, charges, row)
    charged(KEYS[mark])
  end
  at = at + 3 + 2 * many
end
for _, holder in ipairs(holders) do
  if holder.changed then keep(holder[1], holder[2]) end
end
local answer = {'D'}
for _, key in ipairs(touched) do
  local posted, held, _, limit = book(key)
  local told = posted .. ' ' .. held .. ' ' .. add(limit, raised(key), 1)
  answer[#answer + 1] = key
  answer[#answer + 1] = told .. ' ' .. add(posted, before[key], -1)
end
return answer
"""

READ = """
local answer = {}
for n = 4, #ARGV do
  local posted, held, _, limit = book(ARGV[n])
  answer[#answer + 1] = posted .. ' ' .. held .. ' ' .. (limit and add(limit, raised(ARGV[n]), 1) or '0')
end
return 'R ' .. table.concat(answer, ' ')
"""

BOOKS = """
local found = call('HSCAN', books, ARGV[4], 'COUNT', 500)
local answer = {'B', found[1]}
for n = 1, #found[2], 2 do
  local key = found[2][n]
  local posted, held, leased, limit = book(key)
  local state = posted .. ' ' .. held .. ' ' .. add(limit, raised(key), 1) .. ' ' .. leased
  answer[#answer + 1] = key
  answer[#answer + 1] = state
  answer[#answer + 1] = call('HGET', names, key) or ''
end
return answer
"""

ENTRIES = """
return {'E', call('XRANGE', entries, ARGV[4], '+', 'COUNT', ARGV[5])}
"""

# What is forgotten then is as `grants.to_forget` says.
GRANT = """
local id, text, account, amount, from_ms, to_ms, most = unpack(ARGV, 4, 10)
if call('HSETNX', grants, id, text) == 0 then return 'OK' end
local list = ''
for raise, from, to in (call('HGET', raises, account) or ''):gmatch('(%S+) (%S+) (%S+);') do
  if now < tonumber(to) then list = list .. raise .. ' ' .. from .. ' ' .. to .. ';' end
end
call('HSET', raises, account, list .. amount .. ' ' .. from_ms .. ' ' .. to_ms .. ';')
local count = call('HLEN', grants)
if count < tonumber(most) or count % floor(most / 10) ~= 0 then return 'OK' end
local all, ended, by_end = call('HGETALL', grants), {}, {}
for n = 1, #all, 2 do
  local end_s = tonumber(all[n + 1]:match('"expires_at_s": ([^,]+),'))
  if end_s and end_s * 1000 <= now then
    ended[all[n]] = end_s
    by_end[#by_end + 1] = end_s
  end
end
table.sort(by_end)
local last = by_end[math.min(#by_end, count - floor(most * 9 / 10))]
for name, end_s in pairs(ended) do
  if end_s <= last then call('HDEL', grants, name) end
end
all = call('HGETALL', raises)
for n = 1, #all, 2 do
  local stands = false
  for _, _, to in all[n + 1]:gmatch('(%S+) (%S+) (%S+);') do stands = stands or now < tonumber(to) end
  if not stands then call('HDEL', raises, all[n]) end
end
return 'OK'
"""

GRANTS = "return {'G', call('HVALS', grants)}"
PAUSE = "call('HSET', pauses, ARGV[4], ARGV[5]) return 'OK'"
RESUME = "return call('HDEL', pauses, ARGV[4]) == 1 and 'OK' or 'NO'"
PAUSES = "return {'P', call('HVALS', pauses)}"
TIME = "return 'T ' .. now"

# Some holds of the dead. A dead process without holds is forgotten.
DEAD = """
local dead = call('ZRANGEBYSCORE', owners, '-inf', now, 'LIMIT', 0, 50)
local answer = {'D', #dead}
for _, owner in ipairs(dead) do
  local found = call('ZRANGEBYLEX', mine, '[' .. owner .. ' ', '(' .. owner .. '!', 'LIMIT', 0, 100)
  if #found == 0 then call('ZREM', owners, owner) end
  for _, member in ipairs(found) do answer[#answer + 1] = member:sub(#owner + 2) end
  if #answer > 100 then break end
end
return answer
"""

BURY = f"""
local count = 0
for n = 4, #ARGV do
  local id = ARGV[n]
  local hold, text = hold_of(id)
  local lives_until = hold and call('ZSCORE', owners, hold[1])
  if hold and not (lives_until and tonumber(lives_until) > now) then
    local note = call('HGET', notes, id)
    if note and call('EXISTS', KEYS[10 + n]) == 0 then
      local charges = {{}}
      for c = 2, #hold, 6 do
        if not alone(hold[c + 3]) then
          local posted, held, leased, limit = book(hold[c])
          put(hold[c], add(posted, hold[c + 1], 1), held, leased, limit or hold[c + 2])
          charges[#charges + 1] = {{hold[c], hold[c + 1]}}
        end
      end
      call('SET', KEYS[10 + n], 'e ' .. entry(id, charges, note) .. ' ' .. text, 'PX', {ESTIMATED_MS})
    end
    undo(id, hold)
    count = count + 1
  end
end
return 'N ' .. count
"""

# A sign of life; and a few books that ended long ago and hold nothing are dropped.
BEAT = """
call('ZADD', owners, now + ARGV[5], ARGV[4])
for _, key in ipairs(call('ZRANGEBYSCORE', ends, '-inf', now, 'LIMIT', 0, 50)) do
  local text = call('HGET', books, key)
  local held, used = (text or '0 0 0 0 0'):match('^%S+ (%S+) %S+ %S+ (%S+)')
  local window = text and (call('HGET', names, key) or ''):match('"resets_at":%s*%d')
  if held ~= '0' or day - used < (window and 2 or 30) then
    call('ZADD', ends, now + 86400000, key)
  else
    call('HDEL', books, key)
    call('HDEL', names, key)
    call('ZREM', ends, key)
  end
end
return 'T ' .. now
"""

LEAVE = "call('ZADD', owners, 'XX', 0, ARGV[4]) return 'OK'"

# An epoch may end with a dot and a time: whoever saw other books before that may take them for lost. ARGV: what the
# caller takes for the epoch, or nothing; a fresh one; when the caller saw it first.
OPEN = """
local found = call('GET', epoch)
if not found and ARGV[1] == '' then
  call('SET', epoch, ARGV[2])
  found = ARGV[2]
end
if not found then return 'LOST' end
if ARGV[1] ~= '' and found ~= ARGV[1] and call('SISMEMBER', accepted, ARGV[1]) == 0 then
  local accepted_ms = found:match('^[^.]*%.[^.]*%.(%d+)$')
  if not accepted_ms or tonumber(ARGV[3]) > tonumber(accepted_ms) then return 'LOST' end
end
return 'T ' .. now .. ' ' .. found
"""

# ARGV: a fresh epoch; those that the caller knew. Of those that others knew only the time is known.
ACCEPT = """
local found = call('GET', epoch) or ARGV[1]
local fresh = found:match('^[^.]*%.[^.]*') .. '.' .. now
call('SADD', accepted, found)
for n = 2, #ARGV do call('SADD', accepted, ARGV[n]) end
call('SET', epoch, fresh)
return 'T ' .. now .. ' ' .. fresh
"""

_books = (START, KNOWN, NUMBERS, SHELF)
_charges = (*_books, MARKS, CHARGE)

hold = Script(*_books, HOLD)
sent = Script(START, KNOWN, SENT)
settle = Script(*_charges, SETTLE)
post = Script(*_charges, POST)
release = Script(*_books, RELEASE)
adjust = Script(*_books, ADJUST)
peek = Script(*_books, PEEK)
draw = Script(*_books, MARKS, DRAW)
read = Script(*_books, READ)
all_books = Script(*_books, BOOKS)
all_entries = Script(START, KNOWN, ENTRIES)
grant = Script(START, KNOWN, NUMBERS, GRANT)
all_grants = Script(START, KNOWN, GRANTS)
pause = Script(START, KNOWN, PAUSE)
resume = Script(START, KNOWN, RESUME)
all_pauses = Script(START, KNOWN, PAUSES)
time = Script(START, KNOWN, TIME)
dead = Script(START, KNOWN, DEAD)
bury = Script(*_books, BURY)
beat = Script(*_books, BEAT)
leave = Script(START, KNOWN, LEAVE)
first = Script(START, OPEN)
accept = Script(START, ACCEPT)
