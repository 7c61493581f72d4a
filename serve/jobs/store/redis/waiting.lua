-- The queue before jobs. ARGV: their ids.
-- Answers two lists. Of each job that is queued: its id, its priority, its tenant, jobs and work
-- before it in its lane. Of each priority from the lowest of these up: priority, tenants and their
-- places in turn, tenants and their jobs, tenants and their work.
local CHUNK = 1000
local lanes, lowest = {}, nil
for _, id in ipairs(ARGV) do
  local status, priority, tenant =
    unpack(redis.call("HMGET", key("job", id), "status", "priority", "tenant"))
  if status == "queued" then
    local name = key("lane", priority, tenant)
    local lane = lanes[name] or {priority = priority, tenant = tenant, last = 0, ids = {}}
    lanes[name] = lane
    lane.ids[id] = true
    lane.last = math.max(lane.last, redis.call("ZRANK", name, id))
    lowest = math.min(lowest or tonumber(priority), tonumber(priority))
  end
end
if not lowest then return {{}, {}} end

local jobs = {}
for name, lane in pairs(lanes) do
  local work = 0
  for start = 0, lane.last, CHUNK do
    local ids = redis.call("ZRANGE", name, start, math.min(start + CHUNK - 1, lane.last))
    local works = redis.call("HMGET", key("queued_work"), unpack(ids))
    for place, id in ipairs(ids) do
      if lane.ids[id] then
        jobs[#jobs + 1] = {id, lane.priority, lane.tenant, start + place - 1, integer(work)}
      end
      work = work + tonumber(works[place])
    end
  end
end

local queues = {}
for _, each in ipairs(redis.call("ZRANGE", key("priorities"), lowest, "+inf", "BYSCORE")) do
  queues[#queues + 1] = {
    each,
    redis.call("ZRANGE", key("turns", each), 0, -1, "WITHSCORES"),
    redis.call("HGETALL", key("lane_jobs", each)),
    redis.call("HGETALL", key("lane_work", each)),
  }
end
return {jobs, queues}
