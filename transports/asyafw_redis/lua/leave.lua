-- Put all that a consumer owns back on its queue, and forget the consumer.
--
-- The arguments are, behind the prefix, the queue, the consumer, and the ids that count as
-- delivered: others were never seen by anybody.

local queue, consumer, counted = argument(), argument(), {}
for _, id in ipairs(arguments()) do
  counted[id] = true
end
for _, kind in ipairs(STREAMS) do
  local stream = key(kind, queue)
  repeat
    local page = try('XPENDING', stream, GROUP, '-', '+', BURST, consumer) or {}
    for _, entry in ipairs(page) do
      local fields = take_away(stream, entry[1])
      if fields then
        put_back(queue, entry[1], fields, counted[entry[1]] and 1 or 0)
      end
    end
  until #page < BURST
  try('XGROUP', 'DELCONSUMER', stream, GROUP, consumer)
end
return move_due(queue)
