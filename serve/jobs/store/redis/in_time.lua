-- What stands before every script that writes: one that begins after its time writes nothing, as
-- whoever sent it was told by then that nothing is written. ARGV[1], which is taken away: the time,
-- in microseconds of this server's clock.
local now = redis.call("TIME")
if now[1] * 1000000 + now[2] > tonumber(table.remove(ARGV, 1)) then
  return redis.error_reply("LATE the time for this write was over before it began")
end
