-- Renew a lease or give it up. ARGV: id, token, and the lease's seconds to renew it for.
-- Answers what the owner has asked ("" for nothing), or nothing at all if it is not held so.
local id, token, lease_s = unpack(ARGV)
local hash = base .. "job:" .. id
local held, status, asked = unpack(redis.call("HMGET", hash, "token", "status", "pending_action"))
if held ~= token or status ~= "running" then return nil end
if lease_s then
  redis.call("HINCRBY", hash, "renewals", 1)
  redis.call("HSET", hash, "lease_s", lease_s)
else
  redis.call("HSET", hash, "token", "", "holder", "")
end
return asked
