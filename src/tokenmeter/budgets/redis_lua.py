"""What the scripts have in common: the keys, numbers of any size, books and holds.

All keys of a tenant have one hash tag, so that they lie in one slot of a cluster. `KEYS` says what is in them.
Each script first looks whether the books are those that the caller knows (the epoch), and whether it is not too
late: a command that lay in a stopped server's buffers does nothing any more.

Amounts are decimal text, of up to 24 digits. Lua counts in doubles, which are exact to 2^53 only: what has more
than 15 digits is added in two halves.
"""

from __future__ import annotations

import hashlib

KEYS = (
    "epoch",  # text: whose books these are; gone with the data
    "accepted",  # set: epochs that were lost, which somebody accepted
    "owners",  # sorted set: processes, by when they are taken for dead
    "books",  # hash: key -> posted, held, leased, limit, day of the last use
    "names",  # hash: key -> JSON of the budget, the scope and the end of the window
    "ends",  # sorted set: books, by when they may be dropped
    "holds",  # hash: id -> owner, and six fields a claim
    "mine",  # sorted set, all at 0: owner, blank, id
    "notes",  # hash: id -> row; it is there when the request was sent
    "entries",  # stream: the ledger
    "grants",  # hash: id -> JSON
    "raises",  # hash: account -> amounts and times of the grants that haven't ended
    "pauses",  # hash: target -> JSON
)
CHARGED_MS = 3 * 86_400_000  # how long an id that was charged is known
ESTIMATED_MS = 7 * 86_400_000  # how long an estimate may be corrected

START = """
local epoch, accepted, owners, books, names, ends, holds, mine, notes, entries, grants, raises, pauses = unpack(KEYS)
local call = redis.call
local clock = call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)
"""

KNOWN = """
if call('GET', epoch) ~= ARGV[1] then return 'LOST' end
if ARGV[2] ~= '0' and now > tonumber(ARGV[2]) then return 'LATE ' .. now end
"""

NUMBERS = """
local floor, form = math.floor, string.format

local function halves(text)
  local sign = 1
  if text:sub(1, 1) == '-' then sign = -1; text = text:sub(2) end
  return sign * (tonumber(text:sub(1, -10)) or 0), sign * tonumber(text:sub(-9))
end

local function add(a, b, sign)
  if #a <= 15 and #b <= 15 then return form('%.0f', a + sign * b) end
  local a_high, a_low = halves(a)
  local b_high, b_low = halves(b)
  local high, low, minus = a_high + sign * b_high, a_low + sign * b_low, ''
  local carry = floor(low / 1e9)
  high, low = high + carry, low - carry * 1e9
  if high < 0 then
    minus = '-'
    high = -high
    if low > 0 then high, low = high - 1, 1e9 - low end
  end
  if high == 0 then return minus .. form('%.0f', low) end
  return minus .. form('%.0f%09.0f', high, low)
end

local function fits(a, b)
  if #a <= 15 and #b <= 15 then return tonumber(a) <= tonumber(b) end
  return add(b, a, -1):sub(1, 1) ~= '-'
end
"""

SHELF = """
local day = floor(now / 86400000)

local function book(key)
  local text = call('HGET', books, key)
  if not text then return '0', '0', '0', nil end
  return text:match('^(%S+) (%S+) (%S+) (%S+)')
end

local function put(key, posted, held, leased, limit)
  call('HSET', books, key, posted .. ' ' .. held .. ' ' .. leased .. ' ' .. limit .. ' ' .. day)
end

local function name(key, until_ms, label)
  call('HSET', names, key, label)
  if until_ms ~= '' then
    call('ZADD', ends, until_ms == 'run' and now + 30 * 86400000 or until_ms, key)
  end
end

local any_raise
local function raised(key)
  if any_raise == nil then any_raise = call('EXISTS', raises) == 1 end
  if not any_raise then return '0' end
  local list = call('HGET', raises, key:match('^(.*)|') or '')
  local sum = '0'
  for amount, from_ms, to_ms in (list or ''):gmatch('(%S+) (%S+) (%S+);') do
    if tonumber(from_ms) <= now and now < tonumber(to_ms) then sum = add(sum, amount, 1) end
  end
  return sum
end

local function is_lease(id) return id:sub(1, 6) == 'lease:' end

-- A hold is its owner, and of each claim: key, amount, limit, flags, end, label.
local function hold_of(id)
  local text = call('HGET', holds, id)
  return text and cmsgpack.unpack(text), text
end

local function keep(id, hold) call('HSET', holds, id, cmsgpack.pack(hold)) end

local function alone(flags) return flags:sub(2, 2) == 'a' end

local function forget(id, hold)
  call('HDEL', holds, id)
  call('HDEL', notes, id)
  call('ZREM', mine, hold[1] .. ' ' .. id)
end

local function undo(id, hold)
  forget(id, hold)
  for at = 2, #hold, 6 do
    local key, amount = hold[at], hold[at + 1]
    if not alone(hold[at + 3]) then
      local posted, held, leased, limit = book(key)
      if limit then
        put(key, posted, add(held, amount, -1), is_lease(id) and add(leased, amount, -1) or leased, limit)
      end
    end
  end
end

local function entry(id, charges, row)
  local text = #charges == 0 and '[]' or cjson.encode(charges)
  if ARGV[3] == '0' then return call('XADD', entries, '*', 'id', id, 'charges', text, 'row', row) end
  local oldest = form('%.0f', now - ARGV[3])
  return call('XADD', entries, 'MINID', '~', oldest, '*', 'id', id, 'charges', text, 'row', row)
end
"""

MARKS = f"""
local function charged(mark) call('SET', mark, 'c', 'PX', {CHARGED_MS}) end

local function estimate_of(mark)
  local text = call('GET', mark)
  if not text or text == 'c' then return nil, text end
  local stands_at, hold = text:match('^e (%S+) (.*)$')
  return cmsgpack.unpack(hold), text, stands_at
end
"""

# What is charged: ``claims`` as in a hold, with the amounts from ARGV[at] on.
CHARGE = """
local function charge(id, claims, at, row, stands_at)
  local answer, charges = {}, {}
  for n = 2, #claims, 6 do
    local key, limit, amount = claims[n], claims[n + 2], ARGV[at]
    at = at + 1
    if alone(claims[n + 3]) then
      answer[#answer + 1] = '0 ' .. amount .. ' ' .. limit
    else
      local posted, held, leased, known = book(key)
      if not known or claims.fresh and known ~= limit then
        known = limit
        name(key, claims[n + 4], claims[n + 5])
      end
      posted = add(posted, amount, 1)
      put(key, posted, held, leased, known)
      charges[#charges + 1] = {key, amount}
      answer[#answer + 1] = posted .. ' ' .. held .. ' ' .. add(known, raised(key), 1)
    end
  end
  if stands_at then call('XDEL', entries, stands_at) end
  entry(id, charges, row)
  charged(KEYS[14])
  return table.concat(answer, ' ')
end

-- Takes an estimate back; the amounts by key.
local function retract(claims)
  local amounts = {}
  for n = 2, #claims, 6 do
    local key, amount = claims[n], claims[n + 1]
    amounts[key] = amount
    if not alone(claims[n + 3]) then
      local posted, held, leased, limit = book(key)
      put(key, add(posted, amount, -1), held, leased, limit or claims[n + 2])
    end
  end
  return amounts
end

local function added(claims, at, before)
  local answer = {}
  for n = 2, #claims, 6 do
    answer[#answer + 1] = add(ARGV[at], before[claims[n]] or '0', -1)
    at = at + 1
  end
  return ' ' .. table.concat(answer, ' ')
end
"""


class Script:
    """A script and what Redis calls it."""

    __slots__ = ("head", "text")

    def __init__(self, *parts: str) -> None:
        text = "".join(parts)
        self.text = text.encode()
        digest = hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()
        self.head = b"$7\r\nEVALSHA\r\n$40\r\n%b\r\n" % digest.encode()
