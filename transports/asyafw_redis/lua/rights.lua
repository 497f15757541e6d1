-- Tell which commands the user may not use on our keys, of those without which a message that it
-- has in hand could be lost. The answer has their names; it is empty where a server cannot tell.

local k, missing = key('queue', 'any'), {}

local NEEDED = {
  {'XADD', k, '*', 'b', ''}, {'XACK', k, GROUP, '0-0'}, {'XDEL', k, '0-0'}, {'XLEN', k},
  {'XRANGE', k, '-', '+'}, {'XPENDING', k, GROUP}, {'XCLAIM', k, GROUP, 'any', '0', '0-0'},
  {'XAUTOCLAIM', k, GROUP, 'any', '0', '0-0'}, {'XGROUP', 'CREATE', k, GROUP, '0'},
  {'XGROUP', 'DELCONSUMER', k, GROUP, 'any'}, {'XINFO', 'STREAM', k}, {'XINFO', 'GROUPS', k},
  {'XINFO', 'CONSUMERS', k, GROUP}, {'XREADGROUP', 'GROUP', GROUP, 'any', 'STREAMS', k, '>'},
  {'ZADD', k, '0', ''}, {'ZREM', k, ''}, {'ZCARD', k}, {'ZRANGE', k, '0', '0'},
  {'ZRANGEBYSCORE', k, '0', '0'}, {'HSET', k, 'any', ''}, {'HSETNX', k, 'any', ''},
  {'HGET', k, 'any'}, {'HMGET', k, 'any'}, {'HINCRBY', k, 'any', '1'}, {'DEL', k},
  {'PEXPIREAT', k, '0'},
}

for _, command in ipairs(redis.acl_check_cmd and NEEDED or {}) do
  if not redis.acl_check_cmd(unpack(command)) then
    local has_key_first = command[2] == k or command[1] == 'XREADGROUP'
    missing[#missing + 1] = has_key_first and command[1] or command[1] .. '|' .. command[2]
  end
end
if #missing == #NEEDED then
  return {'any command'}
end
return missing
