-- Write what has become of a job, whole or not at all.
-- ARGV: what to do, as JSON; the job's document; then image and bytes of each part.
-- Answers "saved", "changed" (it is not as expected: nothing is written), and of a new job "replay"
-- with the document under its idempotency key, or "full" with where and what waits there.
local wanted = cjson.decode(ARGV[1])
local id, job = wanted.id, wanted.fields
local hash = key("job", id)

-- Said again because the first answer was lost on its way.
if redis.call("HGET", hash, "operation") == wanted.operation then return {"saved"} end

local before = read(id)
if wanted.bounds then
  if job.idempotency_key ~= "" then
    local earlier = redis.call("HGET", key("keys"), job.tenant .. "\0" .. job.idempotency_key)
    if earlier then return {"replay", redis.call("HGET", key("job", earlier), "document")} end
  end
  if before then return {"changed"} end
  for _, bound in ipairs(wanted.bounds) do
    local scope, sums, most = unpack(bound)
    local jobs, work = unpack(redis.call("HMGET", base .. sums, "jobs", "work_us"))
    if jobs and tonumber(work or 0) + tonumber(job.work_us) > tonumber(most) then
      return {"full", scope, work or "0"}
    end
  end
  welcome(job.tenant)
  if job.idempotency_key ~= "" then
    redis.call("HSET", key("keys"), job.tenant .. "\0" .. job.idempotency_key, id)
  end
else
  if not before then return {"changed"} end
  for field, value in pairs(wanted.expected) do
    if redis.call("HGET", hash, field) ~= value then return {"changed"} end
  end
  index(id, before, -1)
end

for field, value in pairs(job) do redis.call("HSET", hash, field, value) end
redis.call("HSET", hash, "document", ARGV[2], "operation", wanted.operation)
if wanted.update then redis.call("HSET", hash, "last_update", wanted.update) end
redis.call("HINCRBY", hash, "revision", 1)
index(id, job, 1)
if wanted.is_claim then served(job.tenant) end
if wanted.passed_over and redis.call("EXISTS", key("job", wanted.passed_over)) == 1 then
  redis.call("HINCRBY", key("job", wanted.passed_over), "passed_over", 1)
end
if not before or before.status ~= job.status or wanted.is_claim then queue_up(job.tenant) end

for _, event in ipairs(wanted.events) do redis.call("RPUSH", key("events", id), event) end
for argument = 3, #ARGV, 2 do
  redis.call("HSET", key("parts", id), ARGV[argument], ARGV[argument + 1])
end
if job.finished_at ~= "" then
  redis.call("DEL", key("parts", id))
  redis.call("HSET", hash, "holder", "", "token", "")
end

local delivery = wanted.delivery
if delivery then
  redis.call("HSET", hash, "delivery", delivery.id)
  for field, value in pairs(delivery) do
    redis.call("HSET", key("delivery", delivery.id), field, value)
  end
  redis.call("ZADD", key("deliveries", delivery.status, delivery.tenant), delivery.created_at,
    delivery.id)
  redis.call("ZADD", key("due"), delivery.next_at, delivery.id)
end
return {"saved"}
