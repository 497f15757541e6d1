-- Turns at rate limits, and calls through circuits: the decisions of `asyafw.coordination`, where
-- they are explained, in whole microseconds of the server's clock.
--
-- The state of the limit KEY is in PREFIX:line:KEY, that of the circuit KEY in PREFIX:circuit:KEY;
-- each is one packed list, which expires when it is as good as none.
-- The argument is a packed list of steps {name, key, now or false for the server's own, …}.
-- The answer has for each a list, or a text if the server refused.

local EARLY_US, LATE_US, MOST_DOUBLINGS = 1000, 100000, 30
local CHANGES = {opened = 1, paused = 2, closed = 3}

local input = cmsgpack.unpack(argument())
local server_us = time[1] * 1000000 + time[2]

local function load(name, new)
  local found = redis.call('GET', name)
  return found and cmsgpack.unpack(found) or new
end

local function keep(name, state, left_us)
  redis.call('SET', name, cmsgpack.pack(state), 'PX', math.max(1, math.ceil(left_us / 1000)))
end

local function turn(name, now, step_us, ahead_us, turn_us, sure, within_us)
  if turn_us and (now < turn_us - EARLY_US or (sure and now <= turn_us + LATE_US)) then
    return {turn_us, sure and 1 or 0, now}
  end
  local end_us, gate_us = unpack(load(key('line', name), {0, 0}))
  local due = turn_us and gate_us or math.max(end_us, gate_us)
  local at = math.max(now, due - ahead_us)
  sure = turn_us or at - now <= EARLY_US
  if not turn_us then
    end_us = math.max(now, due) + step_us
  end
  if sure then
    gate_us = math.max(now - LATE_US, gate_us) + step_us
  end
  if not within_us or at - now <= math.max(EARLY_US, within_us) then
    keep(key('line', name), {end_us, gate_us}, math.max(end_us, gate_us) + LATE_US - now)
  end
  return {at, sure and 1 or 0, now}
end

-- A circuit is {failures, opened_us, until_us, openings, probes}.
local FAILURES, OPENED, UNTIL, OPENINGS, PROBES = 1, 2, 3, 4, 5

local function circuit_of(name)
  return load(key('circuit', name), {{}, 0, 0, 0, {}})
end

local function keep_circuit(name, now, rules, circuit)
  local failures, idle_us, failed_at = circuit[FAILURES], 0, 0
  if circuit[OPENINGS] > 0 then
    idle_us = 2 * rules.max_open_us
  end
  if #failures > 0 then
    failed_at = failures[#failures] + rules.within_us
  end
  keep(key('circuit', name), circuit, math.max(failed_at, circuit[UNTIL] + idle_us) - now)
end

local function rules_of(list)
  local failures, within_us, open_us, max_open_us, probes = unpack(list)
  return {failures = failures, within_us = within_us, open_us = open_us, max_open_us = max_open_us,
          probes = probes}
end

local function probes_where(circuit, test)
  local left = {}
  for _, probe in ipairs(circuit[PROBES]) do
    if test(probe) then
      left[#left + 1] = probe
    end
  end
  return left
end

local function ask(name, now, list)
  local rules, circuit = rules_of(list), circuit_of(name)
  if now < circuit[UNTIL] then
    return {0, circuit[UNTIL] - now, math.min(circuit[UNTIL] - circuit[OPENED], rules.open_us), 0, 0}
  end
  if circuit[OPENINGS] == 0 then
    return {1, 0, 0, 0, #circuit[FAILURES] > 0 and 1 or 0}
  end
  local running = probes_where(circuit, function(probe) return probe > now end)
  if #running >= rules.probes then
    return {0, 0, rules.open_us, 0, 0}
  end
  running[#running + 1] = now + rules.open_us
  circuit[PROBES] = running
  keep_circuit(name, now, rules, circuit)
  return {1, 0, 0, now + rules.open_us, 0}
end

local function opened(openings, now, rules)
  local open_us = math.min(rules.max_open_us, rules.open_us * 2 ^ math.min(openings, MOST_DOUBLINGS))
  return {{}, now, now + open_us, openings + 1, {}}, CHANGES.opened, open_us
end

local function paused(circuit, now, pause_us)
  if now < circuit[UNTIL] then
    local longer = math.max(now + pause_us, circuit[UNTIL])
    return {{}, circuit[OPENED], longer, circuit[OPENINGS], {}}, 0, 0
  end
  return {{}, now, now + pause_us, 0, {}}, CHANGES.paused, pause_us
end

local function counted(circuit, now, rules, ended)
  if ended == 'other' then
    return circuit, 0, 0
  end
  if ended == 'well' then
    return nil, 0, 0
  end
  local failures = circuit[FAILURES]
  failures[#failures + 1] = now
  while #failures > rules.failures do
    table.remove(failures, 1)
  end
  if #failures == rules.failures and now - failures[1] <= rules.within_us then
    return opened(0, now, rules)
  end
  return {failures, 0, 0, 0, {}}, 0, 0
end

local function probed(circuit, now, rules, ended, probe_us)
  if probe_us > 0 and ended == 'well' then
    return nil, CHANGES.closed, 0
  end
  if probe_us > 0 and ended == 'failed' then
    return opened(circuit[OPENINGS], now, rules)
  end
  circuit[PROBES] = probes_where(circuit, function(probe) return probe ~= probe_us end)
  return circuit, 0, 0
end

local function learn(circuit, now, rules, ended, probe_us, pause_us)
  if pause_us > 0 then
    return paused(circuit, now, pause_us)
  end
  if now < circuit[UNTIL] then
    return circuit, 0, 0
  end
  if circuit[OPENINGS] > 0 then
    return probed(circuit, now, rules, ended, probe_us)
  end
  return counted(circuit, now, rules, ended)
end

local function tell(name, now, list, ended, probe_us, pause_us)
  local rules = rules_of(list)
  local circuit, change, for_us = learn(circuit_of(name), now, rules, ended, probe_us, pause_us)
  if circuit then
    keep_circuit(name, now, rules, circuit)
  else
    redis.call('DEL', key('circuit', name))
  end
  return {change, for_us}
end

local steps = {turn = turn, ask = ask, tell = tell}
local answers = {}
for n, step in ipairs(input) do
  local done, answer = pcall(steps[step[1]], step[2], step[3] or server_us, unpack(step, 4, 8))
  if not done and type(answer) == 'table' then
    answer = answer.err
  end
  answers[n] = answer
end
return answers
