-- Tenants and their queued jobs, of each priority that has any; and the tenant of each running job.
local queued, running = {}, {}
for _, priority in ipairs(redis.call("ZRANGE", key("priorities"), 0, -1)) do
  queued[#queued + 1] = redis.call("HGETALL", key("lane_jobs", priority))
end
for _, id in ipairs(redis.call("SMEMBERS", key("running"))) do
  running[#running + 1] = redis.call("HGET", key("job", id), "tenant")
end
return {queued, running}
