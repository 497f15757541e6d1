-- What has to be done from time to time.
--
-- The arguments are, behind the prefix, the lease in ms, whether to forget consumers that are
-- gone, "1" or "0", and then for each queue
--   its name, and how many consumers of it to look after;
--   of each of them its name, and the ids that it has in hand of each stream;
--   the cursors where the sweeps of the streams have come to, if there is any consumer.
-- The answer has for each queue
-- {ms until something is due, or -1, {what of each consumer was lost}, {the cursors}, count swept,
-- how many wait to be taken alone}.

-- Refresh the leases on what a consumer has in hand, and tell what is not its own any more.
local function refresh(stream, consumer, ids)
  local owned, from, lost = {}, '-', {}
  if #ids == 0 then
    return lost
  end
  repeat
    local page = try('XPENDING', stream, GROUP, from, '+', BURST, consumer) or {}
    for _, entry in ipairs(page) do
      owned[entry[1]] = true
      from = '(' .. entry[1]
    end
  until #page < BURST
  local kept = {}
  local function claim()
    if #kept > 0 then
      redis.call('XCLAIM', stream, GROUP, consumer, 0, unpack(kept))
      kept = {}
    end
  end
  for _, id in ipairs(ids) do
    if owned[id] then
      kept[#kept + 1] = id
      if #kept == BURST then
        kept[#kept + 1] = 'JUSTID'
        claim()
      end
    else
      lost[#lost + 1] = id
    end
  end
  if #kept > 0 then
    kept[#kept + 1] = 'JUSTID'
    claim()
  end
  return lost
end

-- Put what a consumer has not refreshed for a lease back on its queue, a burst at a time.
local function sweep(kind, queue, lease_ms, cursor, consumer)
  local stream = key(kind, queue)
  local found = try('XAUTOCLAIM', stream, GROUP, consumer, lease_ms, cursor, 'COUNT', BURST)
  if not found then
    return '0-0', 0
  end
  for _, entry in ipairs(found[2]) do
    take_away(stream, entry[1])
    put_back(queue, entry[1], entry[2], 1)
  end
  return found[1], #found[2]
end

-- Forget consumers that left without a word and have nothing in hand.
local function forget(kind, queue, lease_ms)
  local stream = key(kind, queue)
  for _, consumer in ipairs(try('XINFO', 'CONSUMERS', stream, GROUP) or {}) do
    local about = flat(consumer)
    if about.pending == 0 and about.idle > 20 * lease_ms then
      redis.call('XGROUP', 'DELCONSUMER', stream, GROUP, about.name)
    end
  end
end

local lease_ms, forgets, answers = argument(), argument() == '1', {}
while at < #ARGV do
  local queue, count = argument(), tonumber(argument())
  local consumer
  local lost, cursors, swept = {}, {}, 0
  -- Its own leases first, so that who was stopped for long does not lose what nobody took.
  for n = 1, count do
    consumer, lost[n] = argument(), {}
    for s, kind in ipairs(STREAMS) do
      lost[n][s] = refresh(key(kind, queue), consumer, arguments())
    end
  end
  if count > 0 then
    for s, kind in ipairs(STREAMS) do
      local cursor, found = sweep(kind, queue, lease_ms, argument(), consumer)
      cursors[s] = cursor
      swept = swept + found
      if forgets then
        forget(kind, queue, lease_ms)
      end
    end
  end
  local alone = waiting(key('alone', queue))
  answers[#answers + 1] = {move_due(queue), lost, cursors, swept, alone}
end
return answers
