-- What happens to webhooks that are to be sent. ARGV: what, and its arguments.
local what = ARGV[1]

local function hash_of(id)
  return base .. "delivery:" .. id
end

-- Give a delivery other values; it is due when it waits.
local function set(id, values)
  local tenant, created_at, before =
    unpack(redis.call("HMGET", hash_of(id), "tenant", "created_at", "status"))
  redis.call("ZREM", base .. "deliveries:" .. before .. ":" .. tenant, id)
  redis.call("HSET", hash_of(id), unpack(values))
  local status, next_at = unpack(redis.call("HMGET", hash_of(id), "status", "next_at"))
  redis.call("ZADD", base .. "deliveries:" .. status .. ":" .. tenant, created_at, id)
  redis.call("ZREM", base .. "due", id)
  if status == "waiting" then redis.call("ZADD", base .. "due", next_at, id) end
end

if what == "claim" then
  local at, until_ = ARGV[2], ARGV[3]
  local id = redis.call("ZRANGE", base .. "due", "-inf", at, "BYSCORE", "LIMIT", 0, 1)[1]
  if not id then return nil end
  set(id, {"next_at", until_})
  local job_id, document = unpack(redis.call("HMGET", hash_of(id), "job_id", "job"))
  document = document or redis.call("HGET", base .. "job:" .. job_id, "document")
  return {redis.call("HGETALL", hash_of(id)), document}
elseif what == "attempted" then
  local id, claimed_until, status, next_at, last_error, last_status = unpack(ARGV, 2)
  local now, due = unpack(redis.call("HMGET", hash_of(id), "status", "next_at"))
  if now == "waiting" and due == claimed_until then
    redis.call("HINCRBY", hash_of(id), "attempts", 1)
    set(id, {"status", status, "next_at", next_at, "last_error", last_error,
      "last_status", last_status})
    if status ~= "waiting" and redis.call("HEXISTS", hash_of(id), "job") == 1 then
      local tenant = redis.call("HGET", hash_of(id), "tenant")
      redis.call("ZREM", base .. "deliveries:" .. status .. ":" .. tenant, id)
      redis.call("DEL", hash_of(id))
    end
  end
elseif what == "redeliver" then
  local id, tenant, at = unpack(ARGV, 2)
  if redis.call("HGET", hash_of(id), "tenant") ~= tenant then return nil end
  set(id, {"status", "waiting", "next_at", at, "attempts", "0"})
  return redis.call("HGETALL", hash_of(id))
end
