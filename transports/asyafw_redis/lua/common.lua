-- What all scripts share: it stands in front of each.
--
-- A queue NAME is kept in
--   PREFIX:queue:NAME    a stream of what has never been delivered, or is in hand,
--   PREFIX:again:NAME    a stream of what came back, which is read first,
--   PREFIX:alone:NAME    a stream of what was left unsettled twice: it may kill its worker, and so
--                        a process takes one at a time, lest the others be blamed,
--   PREFIX:delayed:NAME  a sorted set of what is to come, by its time in ms,
--   PREFIX:joins:NAME    a sorted set of joins that wait for parts, by the time when they give up,
--   PREFIX:join:SIZE:NAME:JOIN  the parts of a join, or the mark that it was delivered; the size of
--                        the name keeps names apart that have colons,
-- and a log in the stream PREFIX:log:NAME.
--
-- An entry of a queue's streams is delivered once, to one consumer, which owns it until it is
-- acknowledged and deleted. What comes back is a new entry, so XACK tells whether one still owns
-- what one has. The fields of an entry are
--   b  the body,  k  the key, or the name of the join,  p  the parts of a join,
--   a  earlier deliveries that count,  t  the time in ms since which it waits.

local GROUP = 'asyafw'
local STREAMS = {'queue', 'again', 'alone'}
local SUSPICIOUS = 2
local BURST = 100

-- The arguments are one flat list of texts, in the order in which they are taken.
local prefix, at = ARGV[1], 1
local time = redis.call('TIME')
local now_ms = time[1] * 1000 + math.floor(time[2] / 1000)

local function argument()
  at = at + 1
  return ARGV[at]
end

-- A list has the number of its items in front.
local function arguments()
  local list = {}
  for n = 1, argument() do
    list[n] = argument()
  end
  return list
end

local function key(kind, name)
  return prefix .. ':' .. kind .. ':' .. name
end

-- Call a command that fails where a queue is not there, or something else is, and give nil then.
local function try(...)
  local reply = redis.pcall(...)
  local err = type(reply) == 'table' and reply.err
  if not err then
    return reply
  end
  for _, known in ipairs({'NOGROUP', 'no such key', 'requires the key to exist', 'WRONGTYPE'}) do
    if string.find(err, known, 1, true) then
      return nil
    end
  end
  error(reply)
end

local function put(queue, body)
  redis.call('XADD', key('queue', queue), '*', 'b', body)
end

local function put_keyed(queue, message_key, body)
  redis.call('XADD', key('queue', queue), '*', 'b', body, 'k', message_key)
end

-- Put what is no longer anybody's back on its queue, with so many deliveries more that count.
local function put_back(queue, id, fields, deliveries)
  local again, since, before = {}, string.match(id, '%d+'), 0
  for n = 1, #fields, 2 do
    if fields[n] == 'a' then
      before = tonumber(fields[n + 1])
    elseif fields[n] == 't' then
      since = fields[n + 1]
    else
      again[#again + 1] = fields[n]
      again[#again + 1] = fields[n + 1]
    end
  end
  local attempts = before + deliveries
  local stream = key(attempts < SUSPICIOUS and 'again' or 'alone', queue)
  redis.call('XADD', stream, '*', 'a', attempts, 't', since, unpack(again))
end

-- Acknowledge and delete an entry, and give its fields; nil if it is not owned any more.
local function take_away(stream, id)
  if redis.call('XACK', stream, GROUP, id) == 0 then
    return nil
  end
  local found = redis.call('XRANGE', stream, id, id)[1]
  redis.call('XDEL', stream, id)
  return found and found[2]
end

local function join_key(queue, join)
  return key('join', #queue .. ':' .. queue .. ':' .. join)
end

-- Deliver a join: its parts in order, each with its length in front; what is missing has none.
local function deliver_join(queue, join)
  local hash = join_key(queue, join)
  local about = redis.call('HMGET', hash, 'total', 'forget')
  local total, parts = tonumber(about[1]), {}
  redis.call('ZREM', key('joins', queue), join)
  if not total then
    return -- somebody deleted it
  end
  for first = 0, total - 1, BURST do
    local indexes = {}
    for index = first, math.min(first + BURST, total) - 1 do
      indexes[#indexes + 1] = index
    end
    for _, body in ipairs(redis.call('HMGET', hash, unpack(indexes))) do
      parts[#parts + 1] = body and struct.pack('>I4', #body) .. body or '\255\255\255\255'
    end
  end
  redis.call('XADD', key('queue', queue), '*', 'k', join, 'p', table.concat(parts))
  redis.call('DEL', hash)
  redis.call('HSET', hash, 'total', total, 'delivered', 1)
  redis.call('PEXPIREAT', hash, about[2])
end

local function flat(reply)
  local about = {}
  for n = 1, #reply, 2 do
    about[reply[n]] = reply[n + 1]
  end
  return about
end

-- Count what has not been delivered of a stream and what is in hand, and give the last delivered id.
local function waiting(stream)
  local length = redis.call('XLEN', stream)
  -- What is in hand is in the stream, too: an empty one needs no further question.
  if length > 0 then
    for _, reply in ipairs(redis.call('XINFO', 'GROUPS', stream)) do
      local group = flat(reply)
      if group.name == GROUP then
        return math.max(length - group.pending, 0), group.pending, group['last-delivered-id']
      end
    end
  end
  return length, 0, '0-0'
end

-- Call a function with each of the first members of a sorted set that are due, and tell in how
-- many ms the next one is; nil if there is none.
local function each_due(set, call)
  local first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  if first[2] and tonumber(first[2]) <= now_ms then
    for _, member in ipairs(redis.call('ZRANGEBYSCORE', set, '-inf', now_ms, 'LIMIT', 0, BURST)) do
      call(member)
    end
    first = redis.call('ZRANGE', set, 0, 0, 'WITHSCORES')
  end
  return first[2] and math.max(0, tonumber(first[2]) - now_ms)
end

-- Put what is due on its queue, a burst at a time, and tell in how many ms more is; -1 if nothing is.
local function move_due(queue)
  local delayed, joins = key('delayed', queue), key('joins', queue)
  local message_ms = each_due(delayed, function(member)
    -- 16 bytes make it unique; then comes the key, with its length in front, and the body.
    local size = struct.unpack('>i4', member, 17)
    if size < 0 then
      put(queue, string.sub(member, 21))
    else
      put_keyed(queue, string.sub(member, 21, 20 + size), string.sub(member, 21 + size))
    end
    redis.call('ZREM', delayed, member)
  end)
  local join_ms = each_due(joins, function(join)
    deliver_join(queue, join)
  end)
  return math.min(message_ms or join_ms or -1, join_ms or message_ms or -1)
end
