#!lua name=carousel_v2
-- What the redis store asks of Redis 7 or Valkey: each function is one atomic step of the protocol.
--
-- Keys, all with one prefix (a hash tag, so that a cluster keeps them together):
--   session:<tenant>/<id>  hash: the facts, the snapshot, and the owner, "<replica>/<boot>" or ""
--   lease:<replica>        the boot that lives now; gone when its lease has run out
--   ids:<tenant>           sorted set of the tenant's session ids, all of score 0
--   expiry                 sorted set of <tenant>/<id>; the score is when the session would have expired
--                          as of its activation or release, so that commits need not move it
--   ended:<tenant>/<id>    "<reason> <epoch>" of a session that ended within a day
--
-- Leases are timed by this server's clock. Instants of use come from the replicas, as text; so do epochs and
-- seqs, which are below 2^53. A change that an older server could not bear takes a new library name.

local DAY_S = 86400
local HEAD_BYTES = 2048 -- of a snapshot; core/store.py says what it is for
local RECHECK_S = 10 -- how soon a sweep looks again at a session that is old, but held
local FACTS = {'epoch', 'seq', 'last_used', 'model', 'durability', 'idle_ttl', 'seed', 'created_at'}
local DONE, FENCED, STALE = 0, 1, 2

local function text(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return string.format('%s.%06d', time[1], time[2])
end

-- Milliseconds that an owner's lease has left; 0 if that life of that replica holds nothing any more.
local function lease_left(prefix, owner)
  local name, boot = string.match(owner, '^(.*)/([^/]*)$')
  if not name then
    return 0
  end
  local key = prefix .. 'lease:' .. name
  if redis.call('GET', key) ~= boot then
    return 0
  end
  return math.max(redis.call('PTTL', key), 1)
end

local function is_expired(last_used, idle_ttl, at)
  return tonumber(at) - tonumber(last_used) > tonumber(idle_ttl)
end

local function end_session(prefix, tenant, id, epoch, reason)
  local name = tenant .. '/' .. id
  redis.call('DEL', prefix .. 'session:' .. name)
  redis.call('ZREM', prefix .. 'ids:' .. tenant, id)
  redis.call('ZREM', prefix .. 'expiry', name)
  redis.call('SET', prefix .. 'ended:' .. name, reason .. ' ' .. epoch, 'EX', DAY_S)
end

-- Why a session ended, and its last epoch; nil where nothing is known of it.
local function remembered(prefix, name)
  local ended = redis.call('GET', prefix .. 'ended:' .. name)
  if not ended then
    return nil, '0'
  end
  return string.match(ended, '^(%S+) (%d+)$')
end

local function gone(reason)
  return reason and {'ENDED', reason} or {'NONE'}
end

-- prefix, tenant, id, replica, boot, epoch floor, then model, durability, idle_ttl, seed,
-- created_at, seq, snapshot to open.
local function acquire(keys, args)
  local prefix, tenant, id, replica, boot = args[1], args[2], args[3], args[4], args[5]
  local key, name, at = keys[1], args[2] .. '/' .. args[3], now()
  local kept = redis.call('HMGET', key, 'epoch', 'owner', 'last_used', 'idle_ttl')
  local epoch = kept[1]
  if epoch then
    local left = lease_left(prefix, kept[2])
    if left > 0 and string.match(kept[2], '^(.*)/') ~= replica then
      return {'HELD', left}
    end
    if left == 0 and is_expired(kept[3], kept[4], at) then
      end_session(prefix, tenant, id, epoch, 'SESSION_EXPIRED')
      epoch = nil
    end
  end
  local created = not epoch
  local idle_ttl = kept[4]
  if created then
    local reason, former = remembered(prefix, name)
    if #args == 6 then
      return gone(reason)
    end
    epoch, idle_ttl = former, args[9]
    redis.call('HSET', key, 'seq', args[12], 'snapshot', args[13], 'model', args[7], 'durability', args[8],
      'idle_ttl', idle_ttl, 'seed', args[10], 'created_at', args[11])
    redis.call('ZADD', prefix .. 'ids:' .. tenant, 0, id)
    redis.call('DEL', prefix .. 'ended:' .. name)
  end
  epoch = text(math.max(tonumber(epoch), tonumber(args[6])) + 1)
  redis.call('HSET', key, 'epoch', epoch, 'owner', replica .. '/' .. boot, 'last_used', at)
  redis.call('ZADD', prefix .. 'expiry', tonumber(at) + tonumber(idle_ttl), name)
  return {'OK', created and 1 or 0, redis.call('HMGET', key, unpack(FACTS)), redis.call('HGET', key, 'snapshot')}
end

-- For each key: epoch, seq, last_used, snapshot. Rule R4.
local function commit(keys, args)
  local outcomes = {}
  for i, key in ipairs(keys) do
    local epoch, seq, last_used, snapshot = args[4 * i - 3], args[4 * i - 2], args[4 * i - 1], args[4 * i]
    local kept = redis.call('HMGET', key, 'epoch', 'seq')
    if not kept[1] then
      outcomes[i] = {FENCED, '0', '0'}
    elseif kept[1] ~= epoch then
      outcomes[i] = {FENCED, kept[1], kept[2]}
    elseif tonumber(seq) < tonumber(kept[2]) then
      outcomes[i] = {STALE, kept[1], kept[2]}
    else
      redis.call('HSET', key, 'seq', seq, 'last_used', last_used, 'snapshot', snapshot)
      outcomes[i] = {DONE, epoch, seq}
    end
  end
  return outcomes
end

-- prefix, then for each key: name, epoch, last_used.
local function release(keys, args)
  for i, key in ipairs(keys) do
    local name, epoch, last_used = args[3 * i - 1], args[3 * i], args[3 * i + 1]
    local kept = redis.call('HMGET', key, 'epoch', 'idle_ttl')
    if kept[1] == epoch then
      redis.call('HSET', key, 'owner', '', 'last_used', last_used)
      redis.call('ZADD', args[1] .. 'expiry', tonumber(last_used) + tonumber(kept[2]), name)
    end
  end
  return #keys
end

-- prefix, tenant, id, epoch, reason.
local function remove(keys, args)
  local prefix, tenant, id, epoch, reason = args[1], args[2], args[3], args[4], args[5]
  local stored = redis.call('HGET', keys[1], 'epoch')
  if stored == epoch then
    end_session(prefix, tenant, id, epoch, reason)
    return DONE
  end
  local _, former = remembered(prefix, tenant .. '/' .. id)
  return not stored and former == epoch and DONE or FENCED
end

-- held, the facts and the snapshot's head; nil if the session is not there or has expired, swept or not.
local function facts(prefix, name)
  local key = prefix .. 'session:' .. name
  local told = redis.call('HMGET', key, unpack(FACTS))
  if not told[1] then
    return nil
  end
  local is_held = lease_left(prefix, redis.call('HGET', key, 'owner')) > 0
  if not is_held and is_expired(told[3], told[6], now()) then
    return nil, 'SESSION_EXPIRED'
  end
  local snapshot = redis.call('HGET', key, 'snapshot')
  return {is_held and 1 or 0, told, string.sub(snapshot, 1, HEAD_BYTES)}
end

-- prefix, tenant, id.
local function read(_, args)
  local name = args[2] .. '/' .. args[3]
  local told, expired = facts(args[1], name)
  if told then
    return {'OK', told[1], told[2], told[3]}
  end
  local reason = remembered(args[1], name)
  return gone(expired or reason)
end

-- prefix, tenant, after, limit, model. The last id that was looked at ("" at the end), then the records.
local function list(keys, args)
  local from = args[3] == '' and '-' or '(' .. args[3]
  local ids = redis.call('ZRANGE', keys[1], from, '+', 'BYLEX', 'LIMIT', 0, args[4])
  local records = {}
  for _, id in ipairs(ids) do
    local told = facts(args[1], args[2] .. '/' .. id)
    if told and (args[5] == '' or told[2][4] == args[5]) then
      records[#records + 1] = {id, told[1], told[2], told[3]}
    end
  end
  return {#ids == tonumber(args[4]) and ids[#ids] or '', records}
end

-- boot, TTL in milliseconds. 1 if the lease had not run out; it is taken in any case.
local function renew(keys, args)
  local kept = redis.call('GET', keys[1]) == args[1]
  redis.call('SET', keys[1], args[1], 'PX', args[2])
  return kept and 1 or 0
end

-- boot.
local function resign(keys, args)
  if redis.call('GET', keys[1]) == args[1] then
    return redis.call('DEL', keys[1])
  end
  return 0
end

-- prefix, now, limit. How many sessions it ended, and how many it looked at.
local function sweep(keys, args)
  local prefix, at = args[1], tonumber(args[2])
  local names = redis.call('ZRANGE', keys[1], '-inf', '(' .. args[2], 'BYSCORE', 'LIMIT', 0, args[3])
  local ended = 0
  for _, name in ipairs(names) do
    local kept = redis.call('HMGET', prefix .. 'session:' .. name, 'epoch', 'owner', 'last_used', 'idle_ttl')
    if not kept[1] then
      redis.call('ZREM', keys[1], name)
    elseif not is_expired(kept[3], kept[4], at) then
      redis.call('ZADD', keys[1], tonumber(kept[3]) + tonumber(kept[4]), name)
    elseif lease_left(prefix, kept[2]) > 0 then
      redis.call('ZADD', keys[1], at + RECHECK_S, name)
    else
      local tenant, id = string.match(name, '^([^/]*)/(.*)$')
      end_session(prefix, tenant, id, kept[1], 'SESSION_EXPIRED')
      ended = ended + 1
    end
  end
  return {ended, #names}
end

local function count(keys)
  return redis.call('ZCARD', keys[1])
end

-- Those that free memory, or keep what is there, run where memory has run out.
redis.register_function('carousel_v2_acquire', acquire)
redis.register_function('carousel_v2_commit', commit)
redis.register_function{function_name = 'carousel_v2_release', callback = release, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v2_remove', callback = remove, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v2_read', callback = read, flags = {'no-writes'}}
redis.register_function{function_name = 'carousel_v2_list', callback = list, flags = {'no-writes'}}
redis.register_function{function_name = 'carousel_v2_renew', callback = renew, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v2_resign', callback = resign, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v2_sweep', callback = sweep, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v2_count', callback = count, flags = {'no-writes'}}
