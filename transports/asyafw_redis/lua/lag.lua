-- Measure the queue that the argument names, once what is due has been put on it.
--
-- The answer is {backlog, in flight, delayed, age of the oldest that waits in ms or -1, arrived}.

local queue = argument()

repeat
  local next_ms = move_due(queue)
until next_ms ~= 0

local backlog, in_flight, oldest_ms, arrived = 0, 0, -1, 0
for _, kind in ipairs(STREAMS) do
  local stream = key(kind, queue)
  local waits, pending, last = waiting(stream)
  backlog, in_flight = backlog + waits, in_flight + pending
  if waits > 0 then
    -- What came back is not in the order of its age: of that, as many are looked at as in a burst.
    local count = kind == 'queue' and 1 or BURST
    for _, entry in ipairs(redis.call('XRANGE', stream, '(' .. last, '+', 'COUNT', count)) do
      local since = flat(entry[2]).t or string.match(entry[1], '%d+')
      oldest_ms = math.max(oldest_ms, now_ms - tonumber(since), 0)
    end
  end
end
local stream = try('XINFO', 'STREAM', key('queue', queue))
if stream then
  arrived = flat(stream)['entries-added']
end
return {backlog, in_flight, redis.call('ZCARD', key('delayed', queue)), oldest_ms, arrived}
