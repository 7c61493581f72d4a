-- Forget a job that is over, with all that belongs to it. ARGV: its id. A delivery that waits keeps
-- all that is to be said of it.
-- Answers its document; "" if it is not over, nothing if there is none.
local id = ARGV[1]
local job = read(id)
if not job then return nil end
if job.finished_at == "" then return "" end
local document = redis.call("HGET", key("job", id), "document")
index(id, job, -1)
if redis.call("HEXISTS", key("tenant", job.tenant), "kept") == 0 then
  redis.call("DEL", key("tenant", job.tenant))
end
if job.idempotency_key ~= "" then
  redis.call("HDEL", key("keys"), job.tenant .. "\0" .. job.idempotency_key)
end
if job.delivery ~= "" then
  local status = redis.call("HGET", key("delivery", job.delivery), "status")
  if status == "waiting" then
    redis.call("HSET", key("delivery", job.delivery), "job", document)
  elseif status then
    redis.call("ZREM", key("deliveries", status, job.tenant), job.delivery)
    redis.call("DEL", key("delivery", job.delivery))
  end
end
redis.call("DEL", key("job", id), key("events", id), key("parts", id))
return document
