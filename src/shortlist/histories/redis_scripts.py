"""Which Lua scripts does a store of events in Redis run? Redis runs each one atomically.

Each script makes all its checks before it writes: a script that is refused has changed nothing.
"""

from hashlib import sha1


class Script:
    """A Lua script and its SHA-1, by which EVALSHA calls it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.sha = sha1(text.encode(), usedforsecurity=False).hexdigest()


BEGIN = Script("""
-- KEYS: about. ARGV: version, identity. Create a store unless another process just did.
if redis.call('EXISTS', KEYS[1]) == 0 then
  redis.call('HSET', KEYS[1], 'kind', 'shortlist events', 'version', ARGV[1], 'identity', ARGV[2],
    'last', 0, 'changes', 0, 'items', 0)
end
""")

APPEND = Script("""
-- Store the events of one request, all or none.
-- KEYS: about, index; for each user: the events, two hashes of event ids, the rate limit.
-- ARGV: identity, most events of a user, milliseconds that events are kept, milliseconds that event
--   ids are kept, most events of a user in a minute (0: no limit), number of users; each user; for
--   each event: the place of its user, its stored text, its id, its digest (empty without an id).
local most, ids = tonumber(ARGV[2]), tonumber(ARGV[4])
local pace, users = tonumber(ARGV[5]), tonumber(ARGV[6])
local said = redis.call('HMGET', KEYS[1], 'identity', 'last', 'changes')
if said[1] ~= ARGV[1] then return {'other'} end
local last = tonumber(said[2])
local time = redis.call('TIME')
local now = time[1] * 1000 + math.floor(time[2] / 1000)
local half = math.floor(now / ids)
local oldest = now - tonumber(ARGV[3])
local function whole(number) return string.format('%.0f', number) end
local function key(user, which) return KEYS[2 + (user - 1) * 4 + which] end

local counts, tokens = {}, {}
for at = 7 + users, #ARGV, 4 do
  local user = tonumber(ARGV[at])
  counts[user] = (counts[user] or 0) + 1
end
if pace > 0 then
  for user = 1, users do
    local left, since = string.match(redis.call('GET', key(user, 4)) or '', '^(%S+) (%d+)$')
    left = math.min(pace, (tonumber(left) or pace)
      + math.max(0, now - (tonumber(since) or now)) * pace / 60000)
    if left < counts[user] then return {'slow', user} end
    tokens[user] = left - counts[user]
  end
end

local answer, known, fresh, before = {'kept', said[3], said[3], 0, 0}, {}, {}, {}
for at = 7 + users, #ARGV, 4 do
  local user, text, id, digest = tonumber(ARGV[at]), ARGV[at + 1], ARGV[at + 2], ARGV[at + 3]
  local name, sent = user .. ' ' .. id, nil
  if digest ~= '' then
    sent = known[name]
    for which = 2, 3 do
      local number, came, was =
        string.match(redis.call('HGET', key(user, which), id) or '', '^(%d+) (%d+) (%x+)$')
      if not sent and number and now - tonumber(came) < ids then sent = {number, was} end
    end
    if sent and sent[2] ~= digest then return {'conflict', (at - 7 - users) / 4 + 1} end
  end
  if sent then
    answer[#answer + 1] = sent[1]
    answer[5] = answer[5] + 1
  else
    last = last + 1
    local number = whole(last)
    answer[#answer + 1] = number
    known[name] = digest ~= '' and {number, digest} or nil
    fresh[user] = fresh[user] or {}
    table.insert(fresh[user], {number, text, id, digest})
  end
end
for user in pairs(fresh) do
  local text = redis.call('GET', key(user, 1)) or '0\\n'
  local count, start = string.match(text, '^(%d+)\\n()')
  if not count then return {'damaged'} end
  before[user] = {tonumber(count), string.sub(text, start)}
end

for user in pairs(tokens) do
  local left = string.format('%.6f', tokens[user])
  redis.call('SET', key(user, 4), left .. ' ' .. whole(now), 'PX', 60000)
end
if not next(fresh) then return answer end
for user, events in pairs(fresh) do
  local rows = {}
  for at = #events, 1, -1 do
    local number, text, id, digest = unpack(events[at])
    rows[#rows + 1] = '[' .. number .. ',' .. whole(now) .. ',' .. text .. ']\\n'
    if digest ~= '' then
      local ids_of = key(user, 2 + half % 2)
      redis.call('HSET', ids_of, id, number .. ' ' .. whole(now) .. ' ' .. digest)
      redis.call('PEXPIREAT', ids_of, whole((half + 2) * ids))
    end
  end
  rows[#rows + 1] = before[user][2]
  local text, count = table.concat(rows), before[user][1] + #events
  local stop = #text
  while stop > 0 do  -- The oldest event is last.
    local at = stop - 1
    while at > 0 and string.byte(text, at) ~= 10 do at = at - 1 end
    local many, came = count > most, string.match(text, '^%[%d+,(%d+)', at + 1)
    if not many and (tonumber(came) or 0) >= oldest then break end
    if many then answer[4] = answer[4] + 1 end
    count, stop = count - 1, at
  end
  redis.call('SET', key(user, 1), count .. '\\n' .. string.sub(text, 1, stop), 'PX', ARGV[3])
  redis.call('ZADD', KEYS[2], events[#events][1], ARGV[6 + user])
end
redis.call('HSET', KEYS[1], 'last', whole(last))
answer[3] = redis.call('HINCRBY', KEYS[1], 'changes', 1)
return answer
""")

READ = Script("""
-- KEYS: about, forgotten, then the events of users. ARGV: the same users.
-- Return the identity of the store, its number of changes, the stored text of each user, and
-- whether each user was deleted.
local said = redis.call('HMGET', KEYS[1], 'identity', 'changes')
local texts, gone = {}, {}
for place = 1, #ARGV do
  texts[place] = redis.call('GET', KEYS[2 + place])
  gone[place] = redis.call('SISMEMBER', KEYS[2], ARGV[place])
end
return {said[1], said[2], texts, gone}
""")

FORGET = Script("""
-- KEYS: about, index, forgotten; the user's events, two hashes of event ids and rate limit.
-- ARGV: identity, the user. Remove the user's events, and mark the user as deleted.
local said = redis.call('HMGET', KEYS[1], 'identity', 'changes')
if said[1] ~= ARGV[1] then return {'other'} end
local count = string.match(redis.call('GET', KEYS[4]) or '', '^(%d+)') or '0'
redis.call('SADD', KEYS[3], ARGV[2])
redis.call('DEL', KEYS[4], KEYS[5], KEYS[6], KEYS[7])
redis.call('ZREM', KEYS[2], ARGV[2])
return {'kept', said[2], redis.call('HINCRBY', KEYS[1], 'changes', 1), count}
""")

TIDY = Script("""
-- KEYS: index, then the events of users. ARGV: the same users, least recently active first.
-- Remove users from the index until one has events that have not expired; return how many.
for place = 1, #ARGV do
  if redis.call('EXISTS', KEYS[1 + place]) == 1 then return place - 1 end
  redis.call('ZREM', KEYS[1], ARGV[place])
end
return #ARGV
""")

CHANGE = Script("""
-- Store a change of items unless another one was made meanwhile.
-- KEYS: about, then hashes. ARGV: identity, number of the last change; then for each field: the
--   place of its hash, its name, its value (empty: remove it). All fields are a few kilobytes.
local said = redis.call('HMGET', KEYS[1], 'identity', 'items')
if said[1] ~= ARGV[1] then return {'other'} end
if said[2] ~= ARGV[2] then return {'late'} end
for at = 3, #ARGV, 3 do
  local hash = KEYS[tonumber(ARGV[at])]
  if ARGV[at + 2] == '' then
    redis.call('HDEL', hash, ARGV[at + 1])
  else
    redis.call('HSET', hash, ARGV[at + 1], ARGV[at + 2])
  end
end
return {'kept', redis.call('HINCRBY', KEYS[1], 'items', 1)}
""")
