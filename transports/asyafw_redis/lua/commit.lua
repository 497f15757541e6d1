-- Settle, release and emit: one step after another, each whole or not at all.
--
-- The arguments are, behind the prefix, for how many ms logs are kept, and then of each step
--   what it acknowledges: "queue:NAME" or that of another stream, the entry's id, its consumer;
--     or three times nothing;
--   how many things it emits, or -1 to hand the message back;
--   each of them: a letter, and as many arguments as `EMITS` says.
-- The answer has for each step
--   1 if it was done, 0 if the message is somebody else's,
--   {n, total} if the n-th thing to emit is a part of a join that has another total,
--   and a text if the server refused.

local retention_ms = argument()
local oldest = string.format('%.0f', now_ms - retention_ms)

-- What each letter means: how many arguments follow it, and what to do with them from the first on.
local EMITS = {
  -- a message without a key: queue, body
  m = {2, function(first)
    put(ARGV[first], ARGV[first + 1])
  end},
  -- a message with a key: queue, key, body
  k = {3, function(first)
    put_keyed(ARGV[first], ARGV[first + 1], ARGV[first + 2])
  end},
  -- a message for later: queue, member of the sorted set, delay in ms
  d = {3, function(first)
    redis.call('ZADD', key('delayed', ARGV[first]), now_ms + ARGV[first + 2], ARGV[first + 1])
  end},
  -- an entry of a log: log, body
  e = {2, function(first)
    redis.call('XADD', key('log', ARGV[first]), 'MINID', '~', oldest, '*', 'b', ARGV[first + 1])
  end},
  -- a part of a join: queue, join, index, total, body, time-out in ms
  p = {6, function(first)
    local queue, join, index, total, body, timeout_ms = unpack(ARGV, first, first + 5)
    local hash = join_key(queue, join)
    local known = redis.call('HMGET', hash, 'delivered', index)
    if known[1] or known[2] then
      return
    end
    if redis.call('HSETNX', hash, 'total', total) == 1 then
      redis.call('HSET', hash, 'missing', total, 'forget', now_ms + 2 * timeout_ms + 60000)
      redis.call('ZADD', key('joins', queue), now_ms + timeout_ms, join)
    end
    redis.call('HSET', hash, index, body)
    if redis.call('HINCRBY', hash, 'missing', -1) == 0 then
      deliver_join(queue, join)
    end
  end},
}

-- Call a function with each thing's number, letter and first argument; stop if it gives something.
local function each(count, first, call)
  for n = 1, count do
    local letter = ARGV[first]
    local found = call(n, letter, first + 1)
    if found then
      return found
    end
    first = first + 1 + EMITS[letter][1]
  end
end

local function misfit(n, letter, first)
  if letter == 'p' then
    local total = redis.call('HGET', join_key(ARGV[first], ARGV[first + 1]), 'total')
    if total and total ~= ARGV[first + 3] then
      return {n, tonumber(total)}
    end
  end
end

local function emit(_, letter, first)
  EMITS[letter][2](first)
end

local function run(name, id, consumer, count, first)
  local stream = prefix .. ':' .. name
  if count < 0 then
    local fields = take_away(stream, id)
    if fields then
      put_back(string.match(name, ':(.+)'), id, fields, 0)
    end
    return fields and 1 or 0
  end
  local wrong = each(count, first, misfit)
  if wrong then
    return wrong
  end
  if name == '' then
    each(count, first, emit)
    return 1
  end
  if redis.call('XACK', stream, GROUP, id) == 0 then
    return 0
  end
  local done, why = pcall(each, count, first, emit)
  if not done then
    -- The message is still there: what has failed may be tried again, if twice in part.
    redis.call('XCLAIM', stream, GROUP, consumer, 0, id, 'FORCE', 'JUSTID')
    error(why)
  end
  redis.call('XDEL', stream, id)
  return 1
end

local results = {}
while at < #ARGV do
  local name, id, consumer, count = argument(), argument(), argument(), tonumber(argument())
  local done, result = pcall(run, name, id, consumer, count, at + 1)
  if not done and type(result) == 'table' then
    result = result.err
  end
  results[#results + 1] = result
  for _ = 1, count do
    at = at + 1
    at = at + EMITS[ARGV[at]][1]
  end
end
return results
