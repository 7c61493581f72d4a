-- Who holds what, and who is next of those that wait. ARGV: free places.
-- Answers a list of running jobs (id, then FIELDS), the first queued one, and the first of those
-- that the places are enough for: (id, then QUEUED_FIELDS), or empty.
local free = tonumber(ARGV[1])
local FIELDS =
  {"token", "renewals", "lease_s", "priority", "created_at", "images", "passed_over"}
local QUEUED_FIELDS = {"priority", "images", "passed_over"}
local CHUNK = 100

local running = {}
for _, id in ipairs(redis.call("SMEMBERS", key("running"))) do
  running[#running + 1] = {id, unpack(redis.call("HMGET", key("job", id), unpack(FIELDS)))}
end

local function any_fits(priority, places)
  for _, images in ipairs(redis.call("HKEYS", key("images", priority))) do
    if tonumber(images) <= places then return true end
  end
  return false
end

-- Goes on with each next element of a sorted set until `choose` answers something.
local function first_of(sorted_set, choose)
  local start = 0
  while true do
    local members = redis.call("ZRANGE", sorted_set, start, start + CHUNK - 1)
    for _, member in ipairs(members) do
      local chosen = choose(member)
      if chosen then return chosen end
    end
    if #members < CHUNK then return nil end
    start = start + CHUNK
  end
end

local function first_queued(places)
  local function fits(id)
    return tonumber(redis.call("HGET", key("job", id), "images")) <= places and id
  end
  for _, priority in ipairs(redis.call("ZREVRANGE", key("priorities"), 0, -1)) do
    if any_fits(priority, places) then
      local id = first_of(key("turns", priority), function(tenant)
        return first_of(key("lane", priority, tenant), fits)
      end)
      return {id, unpack(redis.call("HMGET", key("job", id), unpack(QUEUED_FIELDS)))}
    end
  end
  return {}
end

local first = first_queued(math.huge)
if not first[1] or tonumber(first[3]) <= free then return {running, first, first} end
return {running, first, first_queued(free)}
