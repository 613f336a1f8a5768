#!lua name=carousel_v5
-- What the redis store asks of Redis 7 or Valkey: each function is one atomic step of the protocol.
--
-- The keys of a function have one hash tag, so a cluster has them in one place. The caller names all of them,
-- and no key is made here. Below a tag there are:
--   session:<tenant>/<id>  hash: the facts, the snapshot, the owner, "<replica>/<boot>" or "", the owner's
--                          answer that it keeps the session, "<owner> <until>", and the epoch in which it was
--                          released whole, with all steps that were answered
--   ended:<tenant>/<id>    "<reason> <epoch>" of a session that ended within a day
--   ids:<tenant>           sorted set of the tenant's session ids, all of score 0
--   expiry                 sorted set of <tenant>/<id>; the score is when the session would have expired
--                          as of its activation or release, so that commits need not move it
--   replicas               hash: of each replica its boot, the end of its lease, and its announcement
--   mail:<replica>         list: requests for sessions that the replica holds, each with its end
--
-- Once for the whole store there is layout, the number of tags.
--
-- Leases are timed by this server's clock, in milliseconds. Instants of use come from the replicas, as text; so
-- do epochs and seqs, which are below 2^53. A change that an older server could not bear takes a new library name.

local DAY_S = 86400
local HEAD_BYTES = 2048 -- of a snapshot; core/store.py says what it is for
local FACTS = {'epoch', 'seq', 'last_used', 'model', 'durability', 'idle_ttl', 'seed', 'created_at'}
local DONE, FENCED, STALE = 0, 1, 2

local function text(number)
  return string.format('%.0f', number)
end

local function now()
  local time = redis.call('TIME')
  return string.format('%s.%06d', time[1], time[2])
end

local function now_ms()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- The boot and the end of a replica's lease, and its announcement: accepting, sessions, address.
local function lease_of(replicas, name)
  local told = redis.call('HGET', replicas, name)
  if not told then
    return nil
  end
  return string.match(told, '^(%S+) (%d+) (%d) (%d+) (.*)$')
end

-- Milliseconds that an owner's lease has left; 0 if that life of that replica holds nothing any more.
-- Then the replica's name and its address.
local function lease_left(replicas, owner)
  local name, boot = string.match(owner, '^(.*)/([^/]*)$')
  if not name then
    return 0
  end
  local lives, till, _, _, address = lease_of(replicas, name)
  if lives ~= boot then
    return 0, name
  end
  return math.max(tonumber(till) - now_ms(), 0), name, address
end

local function is_expired(last_used, idle_ttl, at)
  return tonumber(at) - tonumber(last_used) > tonumber(idle_ttl)
end

-- keys: session, ended, ids, expiry.
local function end_session(keys, name, id, epoch, reason)
  redis.call('DEL', keys[1])
  redis.call('SET', keys[2], reason .. ' ' .. epoch, 'EX', DAY_S)
  redis.call('ZREM', keys[3], id)
  redis.call('ZREM', keys[4], name)
end

-- Why a session ended, and its last epoch; nil where nothing is known of it.
local function remembered(key)
  local ended = redis.call('GET', key)
  if not ended then
    return nil, '0'
  end
  return string.match(ended, '^(%S+) (%d+)$')
end

local function gone(reason)
  return reason and {'ENDED', reason} or {'NONE'}
end

-- 1 if the owner has answered within the last seconds that it keeps the session.
local function is_kept(key, owner)
  local answer = redis.call('HGET', key, 'kept') or ''
  local by, till = string.match(answer, '^(.*) (%d+)$')
  return by == owner and tonumber(till) > now_ms() and 1 or 0
end

-- keys: session, ended, ids, expiry, replicas. name, id, replica, boot, epoch floor, then model, durability,
-- idle_ttl, seed, created_at, seq, snapshot to open.
local function acquire(keys, args)
  local key, name, id, replica, boot, at = keys[1], args[1], args[2], args[3], args[4], now()
  local kept = redis.call('HMGET', key, 'epoch', 'owner', 'last_used', 'idle_ttl', 'whole')
  local epoch = kept[1]
  if epoch then
    local left, holder, address = lease_left(keys[5], kept[2])
    if left > 0 and holder ~= replica then
      return {'HELD', left, holder, address, is_kept(key, kept[2])}
    end
    if left == 0 and is_expired(kept[3], kept[4], at) then
      end_session(keys, name, id, epoch, 'SESSION_EXPIRED')
      epoch = nil
    end
  end
  local created = not epoch
  local idle_ttl = kept[4]
  if created then
    local reason, former = remembered(keys[2])
    if #args == 5 then
      return gone(reason)
    end
    epoch, idle_ttl = former, args[8]
    redis.call('HSET', key, 'seq', args[11], 'snapshot', args[12], 'model', args[6], 'durability', args[7],
      'idle_ttl', idle_ttl, 'seed', args[9], 'created_at', args[10])
    redis.call('ZADD', keys[3], 0, id)
    redis.call('DEL', keys[2])
  end
  epoch = text(math.max(tonumber(epoch), tonumber(args[5])) + 1)
  redis.call('HSET', key, 'epoch', epoch, 'owner', replica .. '/' .. boot, 'last_used', at)
  redis.call('ZADD', keys[4], tonumber(at) + tonumber(idle_ttl), name)
  local whole = created or kept[5] == kept[1]
  return {'OK', created and 1 or 0, redis.call('HMGET', key, unpack(FACTS)), redis.call('HGET', key, 'snapshot'),
    whole and 1 or 0}
end

-- keys: sessions. For each: epoch, seq, last_used, snapshot. Rule R4.
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

-- keys: sessions, then expiry. For each session: name, epoch, last_used, 1 if it is whole.
local function release(keys, args)
  for i = 1, #keys - 1 do
    local name, epoch, last_used, whole = args[4 * i - 3], args[4 * i - 2], args[4 * i - 1], args[4 * i]
    local kept = redis.call('HMGET', keys[i], 'epoch', 'idle_ttl')
    if kept[1] == epoch then
      redis.call('HSET', keys[i], 'owner', '', 'last_used', last_used, 'whole', whole == '1' and epoch or '0')
      redis.call('ZADD', keys[#keys], tonumber(last_used) + tonumber(kept[2]), name)
    end
  end
  return #keys - 1
end

-- keys: session, ended, ids, expiry. name, id, epoch, reason.
local function remove(keys, args)
  local epoch = args[3]
  local stored = redis.call('HGET', keys[1], 'epoch')
  if stored == epoch then
    end_session(keys, args[1], args[2], epoch, args[4])
    return DONE
  end
  local _, former = remembered(keys[2])
  return not stored and former == epoch and DONE or FENCED
end

-- keys: session, ended, replicas. Name and address of the live holder ('' for none), the facts and the snapshot's
-- head, unless it has expired, swept or not.
local function read(keys)
  local told = redis.call('HMGET', keys[1], unpack(FACTS))
  if not told[1] then
    return gone((remembered(keys[2])))
  end
  local left, holder, address = lease_left(keys[3], redis.call('HGET', keys[1], 'owner'))
  if left == 0 then
    if is_expired(told[3], told[6], now()) then
      return gone('SESSION_EXPIRED')
    end
    holder, address = '', ''
  end
  local snapshot = redis.call('HGET', keys[1], 'snapshot')
  return {'OK', holder, address, told, string.sub(snapshot, 1, HEAD_BYTES)}
end

-- Forgets replicas whose leases have expired.
local function prune(replicas)
  local all, at = redis.call('HKEYS', replicas), now_ms()
  for _, name in ipairs(all) do
    local _, till = lease_of(replicas, name)
    if not till or tonumber(till) <= at then
      redis.call('HDEL', replicas, name)
    end
  end
end

-- keys: replicas. replica, boot, TTL in milliseconds, accepting, sessions, address. 1 if the lease had not
-- expired; it is taken in any case. Then this server's time.
local function renew(keys, args)
  local at = now_ms()
  local boot, till = lease_of(keys[1], args[1])
  local kept = boot == args[2] and tonumber(till) > at
  if not kept then
    prune(keys[1])
  end
  local lease = table.concat({args[2], text(at + tonumber(args[3])), args[4], args[5], args[6]}, ' ')
  redis.call('HSET', keys[1], args[1], lease)
  return {kept and 1 or 0, now()}
end

-- keys: replicas. replica, boot.
local function resign(keys, args)
  if lease_of(keys[1], args[1]) == args[2] then
    return redis.call('HDEL', keys[1], args[1])
  end
  return 0
end

-- keys: replicas. Name, accepting, sessions and address of each that is live and has an address.
local function replicas(keys)
  local live, at = {}, now_ms()
  for _, name in ipairs(redis.call('HKEYS', keys[1])) do
    local _, till, accepting, sessions, address = lease_of(keys[1], name)
    if till and tonumber(till) > at and address ~= '' then
      live[#live + 1] = {name, accepting, sessions, address}
    end
  end
  return live
end

-- keys: layout, expiry of a store with one tag. The number of tags for a new store, and 1 if the caller knows that
-- no server of an older version runs. The number of this store's tags; -1 if that must be known first.
local function layout(keys, args)
  local found = redis.call('GET', keys[1])
  if not found then
    -- Stores from before there was a layout have one tag.
    local is_old = redis.call('EXISTS', keys[2]) == 1
    if is_old and args[2] == '0' then
      return -1
    end
    found = is_old and '1' or args[1]
    redis.call('SET', keys[1], found)
  end
  return tonumber(found)
end

-- keys: ids. after, limit. Ids of a tenant, sorted.
local function ids(keys, args)
  return redis.call('ZRANGE', keys[1], args[1] == '' and '-' or '(' .. args[1], '+', 'BYLEX', 'LIMIT', 0, args[2])
end

-- keys: expiry. now, limit. Names of sessions that may have expired.
local function due(keys, args)
  return redis.call('ZRANGE', keys[1], '-inf', '(' .. args[1], 'BYSCORE', 'LIMIT', 0, args[2])
end

local function count(keys)
  return redis.call('ZCARD', keys[1])
end

-- keys: session, ended, ids, expiry, replicas. name, id, now, when to look again if it is held. 1 if it has ended.
local function expire(keys, args)
  local name, at = args[1], args[3]
  local kept = redis.call('HMGET', keys[1], 'epoch', 'owner', 'last_used', 'idle_ttl')
  if not kept[1] then
    redis.call('ZREM', keys[4], name)
  elseif not is_expired(kept[3], kept[4], at) then
    redis.call('ZADD', keys[4], tonumber(kept[3]) + tonumber(kept[4]), name)
  elseif lease_left(keys[5], kept[2]) > 0 then
    redis.call('ZADD', keys[4], args[4], name)
  else
    end_session(keys, name, args[2], kept[1], 'SESSION_EXPIRED')
    return 1
  end
  return 0
end

-- keys: mailbox. request, most requests, how long it stays in milliseconds. 0 if the mailbox is full.
local function ask(keys, args)
  if redis.call('LLEN', keys[1]) >= tonumber(args[2]) then
    return 0
  end
  redis.call('RPUSH', keys[1], text(now_ms() + tonumber(args[3])) .. ' ' .. args[1])
  redis.call('PEXPIRE', keys[1], args[3])
  return 1
end

-- keys: mailbox. limit. The oldest requests that have not expired; they are taken out.
local function take(keys, args)
  local taken, at = {}, now_ms()
  for _, mail in ipairs(redis.call('LPOP', keys[1], args[1]) or {}) do
    local till, request = string.match(mail, '^(%d+) (.*)$')
    if tonumber(till) > at then
      taken[#taken + 1] = request
    end
  end
  return taken
end

-- keys: sessions. owner, how long the answer is visible in milliseconds.
local function keep(keys, args)
  for _, key in ipairs(keys) do
    if redis.call('HGET', key, 'owner') == args[1] then
      redis.call('HSET', key, 'kept', args[1] .. ' ' .. text(now_ms() + tonumber(args[2])))
    end
  end
  return #keys
end

-- Those that free memory, or keep what is there, run where memory has run out.
redis.register_function('carousel_v5_acquire', acquire)
redis.register_function('carousel_v5_commit', commit)
redis.register_function{function_name = 'carousel_v5_release', callback = release, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v5_remove', callback = remove, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v5_read', callback = read, flags = {'no-writes'}}
redis.register_function{function_name = 'carousel_v5_renew', callback = renew, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v5_resign', callback = resign, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v5_replicas', callback = replicas, flags = {'no-writes'}}
redis.register_function('carousel_v5_layout', layout)
redis.register_function{function_name = 'carousel_v5_ids', callback = ids, flags = {'no-writes'}}
redis.register_function{function_name = 'carousel_v5_due', callback = due, flags = {'no-writes'}}
redis.register_function{function_name = 'carousel_v5_count', callback = count, flags = {'no-writes'}}
redis.register_function{function_name = 'carousel_v5_expire', callback = expire, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v5_ask', callback = ask, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v5_take', callback = take, flags = {'allow-oom'}}
redis.register_function{function_name = 'carousel_v5_keep', callback = keep, flags = {'allow-oom'}}
