-- What the gateway does to each request and answer: it gives the session its bucket, or the arm that it meets without a
-- draw, and it looks inside streams.
--
-- Runs inside Envoy (LuaJIT, one state per worker thread). `rollouts/bucketing.py` is the same bucket in Python, and
-- `tests/rollouts/test_envoy_sticky.py` holds the two together.

local bit = require("bit")
local band, bor, bxor = bit.band, bit.bor, bit.bxor
local lshift, rshift, rol, tobit = bit.lshift, bit.rshift, bit.rol, bit.tobit
local byte, find, sub, format = string.byte, string.find, string.sub, string.format
local min, max = math.min, math.max

local NAMESPACE = "deploypipe"
local BUCKETS = 10000
local COOKIE_AGE = 2592000 -- thirty days
local HEAD = 128 -- bytes of a line that say what it is

-- math.random starts from the same seed in every worker and after every start, so it would hand out the same sessions
-- again; the kernel does not.
local entropy = assert(io.open("/dev/urandom", "rb"))

-- MurmurHash3 (x86, 32 bit): Austin Appleby, public domain ---------------------------------------------------------

-- Numbers are doubles: the product of two 32-bit values would lose its low bits, so one factor is cut in halves.
local function multiply(a, b)
  local low, high = band(a, 0xffff), rshift(a, 16)
  return tobit(high * band(b, 0xffff) % 65536 * 65536 + low * rshift(b, 16) % 65536 * 65536 + low * band(b, 0xffff))
end

local function mix(k)
  return multiply(rol(multiply(k, 0xcc9e2d51), 15), 0x1b873593)
end

local function murmur3_32(data, seed)
  local h, length = seed, #data
  local rounded = length - length % 4
  for i = 1, rounded, 4 do
    local a, b, c, d = byte(data, i, i + 3)
    h = bxor(h, mix(bor(a, lshift(b, 8), lshift(c, 16), lshift(d, 24))))
    h = tobit(rol(h, 13) * 5 + 0xe6546b64)
  end
  if rounded < length then
    local a, b, c = byte(data, rounded + 1, length)
    h = bxor(h, mix(bor(a, lshift(b or 0, 8), lshift(c or 0, 16))))
  end
  h = bxor(h, length)
  h = multiply(bxor(h, rshift(h, 16)), 0x85ebca6b)
  h = multiply(bxor(h, rshift(h, 13)), 0xc2b2ae35)
  return bxor(h, rshift(h, 16)) % 4294967296 -- bit operations answer signed numbers
end

-- Requests ---------------------------------------------------------------------------------------------------------

local function microseconds(handle)
  return tonumber(handle:timestampString(EnvoyTimestampResolution.MICROSECOND))
end

local function fresh_session()
  return (entropy:read(16):gsub(".", function(c) return format("%02x", byte(c)) end))
end

local function header(headers, name)
  local value = headers:get(name)
  return value ~= "" and value or nil
end

local function cookie(headers, name)
  local cookies = headers:get("cookie")
  local exactly = name:gsub("%p", "%%%0") -- in a pattern, "-" and others mean something
  return cookies and (";" .. cookies):match(";%s*" .. exactly .. "=([^;%s]+)")
end

-- By the id that the route names, else by the client's own session or the one that we once handed out.
local function known_session(headers, route)
  local by, named = route:get("by"), nil
  if by == "header" then
    named = header(headers, route:get("name"))
  elseif by == "cookie" then
    named = cookie(headers, route:get("name"))
  end
  return named or header(headers, "x-session-id") or cookie(headers, "dp_session")
end

-- The arm that the client asks for, where it is one of this route.
local function forced_arm(headers, route)
  local arms = route:get("arms")
  local asked = headers:get("x-deploypipe-arm")
  if asked and arms[asked] then
    return asked
  end
  for _, rule in ipairs(route:get("forced")) do
    if arms[rule.arm] and headers:get(rule.header) == rule.value then
      return rule.arm
    end
  end
end

-- The records name sessions by this, never by the id that a client sent.
local function digest(session)
  return format("%08x%08x", murmur3_32(session, 0x64705f61), murmur3_32(session, 0x64705f62))
end

-- The group and the arm of a session that is not to be drawn; neither where it is. Those held out meet what the others
-- do while the stable version cannot answer, and are not counted then either.
local function exempt(headers, route, session)
  local forced = forced_arm(headers, route)
  if forced then
    return "forced", forced
  end
  local holdout = route:get("holdout")
  if holdout.share > 0 and murmur3_32(holdout.salt .. ":" .. session, 0) % BUCKETS < holdout.share then
    return "holdout", route:get("arms").stable and "stable"
  end
end

function envoy_on_request(handle)
  local headers = handle:headers()
  headers:remove("x-dp-bucket") -- a client does not choose its own
  headers:remove("x-dp-arm")
  local route = handle:metadata()
  local salt = route:get("salt")
  if salt == nil then
    return -- no model lives at this path
  end
  local request = { start = microseconds(handle) }
  local session = known_session(headers, route)
  if session == nil then
    session = fresh_session()
    request.fresh = session
  end
  request.session = digest(session)
  request.bucket = murmur3_32(salt .. ":" .. session, 0) % BUCKETS
  headers:add("x-dp-bucket", format("%d", request.bucket))
  local group, arm = exempt(headers, route, session)
  request.group = group
  if arm then
    headers:add("x-dp-arm", arm)
  end
  handle:clearRouteCache() -- the route was picked before the bucket was known
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, "request", request)
end

-- Answers ----------------------------------------------------------------------------------------------------------

local function is_readable_stream(headers)
  local content_type = headers:get("content-type")
  local encoding = headers:get("content-encoding")
  return content_type
    and find(content_type:lower(), "^text/event%-stream")
    and (encoding == nil or encoding == "" or encoding == "identity")
end

-- Engines say that a stream has failed in a line `data: {"error": …}` (older ones: `{"object": "error", …}`), inside an
-- answer whose status has long been sent as 200.
local function is_error(line, from)
  local _, _, first = find(line, '^data:%s*{%s*"error"%s*:%s*(.)', from)
  if first then
    return first ~= "n" -- `"error": null` is no error
  end
  return find(line, '^data:%s*{%s*"object"%s*:%s*"error"', from) ~= nil
end

-- Takes note of the line of `text` that starts at `from`.
local function look(stream, text, from)
  if byte(text, from) ~= 100 or not find(text, "^data:", from) then
    return -- a comment, a field other than data, or the empty line between events
  end
  if find(text, "^data:%s*%[DONE%]", from) then
    stream.complete = true
    return
  end
  stream.events = stream.events + 1
  stream.stream_error = stream.stream_error or is_error(text, from)
end

-- The line that was unfinished when the last chunk ended goes on in this one; returns where the next line starts, or
-- nil when it is unfinished still. Only its head is kept: that says what it is, and a line may be long.
local function go_on(stream, text)
  local stop = find(text, "\n", 1, true)
  local room = HEAD - #stream.head
  if room > 0 then
    stream.head = stream.head .. sub(text, 1, min(room, (stop or #text + 1) - 1))
  end
  if stop then
    look(stream, stream.head, 1)
    stream.head = nil
    return stop + 1
  end
end

local function feed(stream, text)
  local from = 1
  if stream.head then
    from = go_on(stream, text)
  end
  while from do
    local stop = find(text, "\n", from, true)
    if stop == nil then
      break
    end
    look(stream, text, from)
    from = stop + 1
  end
  if from and from <= #text then
    stream.head = sub(text, from, from + HEAD - 1)
  end
end

-- The metadata object must be fetched anew each time: one taken before a yield may not be used after it.
local function tell(handle, stream)
  handle:streamInfo():dynamicMetadata():set(NAMESPACE, "stream", {
    events = stream.events,
    first_ms = stream.first_ms,
    stream_error = stream.stream_error,
    complete = stream.complete,
  })
end

local function watch(handle, start)
  local stream = { events = 0, stream_error = false, complete = false }
  tell(handle, stream)
  for chunk in handle:bodyChunks() do
    feed(stream, chunk:getBytes(0, chunk:length()))
    if stream.events > 0 and stream.first_ms == nil then
      stream.first_ms = max(0, (microseconds(handle) - start) / 1000)
    end
    -- When the client or the engine goes away, this script is dropped where it stands: what was not told is lost.
    tell(handle, stream)
  end
  if stream.head then
    look(stream, stream.head, 1) -- the last line had no end
    tell(handle, stream)
  end
end

function envoy_on_response(handle)
  local known = handle:streamInfo():dynamicMetadata():get(NAMESPACE)
  local request = known and known["request"]
  if request == nil then
    return
  end
  local headers = handle:headers()
  if request["fresh"] then
    headers:add(
      "set-cookie",
      format("dp_session=%s; Path=/; HttpOnly; SameSite=Lax; Max-Age=%d", request["fresh"], COOKIE_AGE)
    )
  end
  if is_readable_stream(headers) then
    watch(handle, request["start"])
  end
end
