-- What stands before every script that writes jobs: where things are, and how a job is found.
--
-- job:ID              hash: `document`, the job as JSON, and beside it what is searched for; "" is
--                     None. A running job without a token is held by nobody
-- delivery:ID         hash: `job` is the document of a job that is gone while its message waits
-- deliveries:STATUS:TENANT   sorted set of ids by created_at
-- due                 sorted set of the ids that wait, by next_at
-- events:ID           list: event N is element N - 1
-- parts:ID            hash: image -> bytes
-- keys                hash: tenant NUL idempotency key -> id
-- jobs:STATUS:TENANT  sorted set of ids by created_at
-- lane:P:TENANT       sorted set of queued ids by created_at
-- turns:P             sorted set of tenants with a lane of priority P: the lowest is next
-- lane_jobs:P, lane_work:P   hashes: tenant -> queued jobs, and their work in microseconds
-- images:P            hash: number of images -> queued jobs that draw so many
-- priorities          sorted set of the priorities that have a lane
-- queued_work         hash: queued id -> its work in microseconds
-- running             set of ids
-- total               hash: jobs and work_us that wait, and the last turn
-- tenant:TENANT       hash: the same of a tenant, its own turn, running and kept jobs
-- expiring            sorted set of ids by expires_at
-- files:TENANT        sorted set of ids by finished_at, of those that have files
-- bytes               sorted set of tenants by the size of these files
local base = KEYS[1]

local function key(...)
  return base .. table.concat({...}, ":")
end

local function integer(number)
  return string.format("%.0f", number)
end

local FIELDS = {"tenant", "status", "priority", "created_at", "finished_at", "expires_at",
  "images", "work_us", "num_bytes", "idempotency_key", "delivery"}

-- The fields of a job that say where it is found; nil if there is none.
local function read(id)
  local values = redis.call("HMGET", key("job", id), unpack(FIELDS))
  if not values[1] then return nil end
  local found = {}
  for index, field in ipairs(FIELDS) do found[field] = values[index] or "" end
  return found
end

local function add(sorted_set, sign, score, member)
  if sign > 0 then
    redis.call("ZADD", sorted_set, score, member)
  else
    redis.call("ZREM", sorted_set, member)
  end
end

local function increase(hash, field, by)
  if redis.call("HINCRBY", hash, field, integer(by)) == 0 then redis.call("HDEL", hash, field) end
end

-- Add a job to all indexes and sums (sign 1), or take it out (sign -1).
local function index(id, job, sign)
  local tenant = key("tenant", job.tenant)
  increase(tenant, "kept", sign)
  add(key("jobs", job.status, job.tenant), sign, job.created_at, id)
  if job.status == "queued" then
    local work = sign * tonumber(job.work_us)
    add(key("lane", job.priority, job.tenant), sign, job.created_at, id)
    if sign > 0 then
      redis.call("HSET", key("queued_work"), id, job.work_us)
    else
      redis.call("HDEL", key("queued_work"), id)
    end
    for _, sums in ipairs({tenant, key("total")}) do
      increase(sums, "jobs", sign)
      increase(sums, "work_us", work)
    end
    increase(key("lane_jobs", job.priority), job.tenant, sign)
    increase(key("lane_work", job.priority), job.tenant, work)
    increase(key("images", job.priority), job.images, sign)
    redis.call("ZADD", key("priorities"), job.priority, job.priority)
  elseif job.status == "running" then
    increase(tenant, "running", sign)
    redis.call(sign > 0 and "SADD" or "SREM", key("running"), id)
  else
    add(key("expiring"), sign, job.expires_at, id)
    if tonumber(job.num_bytes) > 0 then
      add(key("files", job.tenant), sign, job.finished_at, id)
      redis.call("ZINCRBY", key("bytes"), integer(sign * tonumber(job.num_bytes)), job.tenant)
      redis.call("ZREMRANGEBYSCORE", key("bytes"), 0, 0)
    end
  end
end

-- Tenants are in turn by their running jobs first: so many turns are one running job more.
local ONE_RUNNING = 2 ^ 41
local NEWCOMER = 2 ^ 40

local function next_turn()
  return redis.call("HINCRBY", key("total"), "turn", 1)
end

-- A tenant that was never served goes before all that were.
local function welcome(tenant)
  redis.call("HSETNX", key("tenant", tenant), "turn", integer(next_turn()))
end

local function served(tenant)
  redis.call("HSET", key("tenant", tenant), "turn", integer(NEWCOMER + next_turn()))
end

-- Put a tenant where it belongs among those that wait, after its jobs have changed.
local function queue_up(tenant)
  local running, turn = unpack(redis.call("HMGET", key("tenant", tenant), "running", "turn"))
  local place = integer((tonumber(running) or 0) * ONE_RUNNING + (tonumber(turn) or 0))
  for _, priority in ipairs(redis.call("ZRANGE", key("priorities"), 0, -1)) do
    local waits = redis.call("HEXISTS", key("lane_jobs", priority), tenant) == 1
    add(key("turns", priority), waits and 1 or -1, place, tenant)
    if redis.call("EXISTS", key("turns", priority)) == 0 then
      redis.call("ZREM", key("priorities"), priority)
    end
  end
end
