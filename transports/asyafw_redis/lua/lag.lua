-- Measure the queue that the argument names, once what is due has been put on it.
--
-- The answer is {backlog, in flight, delayed, age of the oldest that waits in ms or -1, arrived}.

local queue = argument()

local function flat(reply)
  local about = {}
  for n = 1, #reply, 2 do
    about[reply[n]] = reply[n + 1]
  end
  return about
end

repeat
  local next_ms = move_due(queue)
until next_ms ~= 0

local backlog, in_flight, oldest_ms, arrived = 0, 0, -1, 0
for _, kind in ipairs(STREAMS) do
  local stream = key(kind, queue)
  local length = redis.call('XLEN', stream)
  local pending, last = 0, '0-0'
  -- What is pending is in the stream, too: an empty one needs no further question.
  local groups = length > 0 and redis.call('XINFO', 'GROUPS', stream) or {}
  for _, reply in ipairs(groups) do
    local group = flat(reply)
    if group.name == GROUP then
      pending, last = group.pending, group['last-delivered-id']
    end
  end
  if length > pending then
    backlog = backlog + length - pending
    -- What came back is not in the order of its age: of that, as many are looked at as in a burst.
    local count = kind == 'queue' and 1 or BURST
    for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', count)) do
      local since = flat(entry[2]).t or string.match(entry[1], '%d+')
      oldest_ms = math.max(oldest_ms, now_ms - tonumber(since), 0)
    end
  end
  in_flight = in_flight + pending
end
local stream = redis.pcall('XINFO', 'STREAM', key('queue', queue))
if not stream.err then
  arrived = flat(stream)['entries-added']
end
return {backlog, in_flight, redis.call('ZCARD', key('delayed', queue)), oldest_ms, arrived}
