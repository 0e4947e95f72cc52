-- Redis's clock is the only one: deadlines must not depend on which machine asks.

-- Returns milliseconds since 1970, and the exact time as {seconds, microseconds}, which no other call ever gets
-- on this server.
function clock.read()
  local time = redis.call("TIME")
  local micros = tonumber(time[2])
  return tonumber(time[1]) * 1000 + (micros - micros % 1000) / 1000, time
end

-- Days since 1970-01-01 of a Gregorian date, and back: Howard Hinnant's `days_from_civil`, whose years
-- begin in March so that the leap day comes last.
local function days_of(year, month, day)
  if month <= 2 then
    year, month = year - 1, month + 12
  end
  return 365 * year + math.floor(year / 4) - math.floor(year / 100) + math.floor(year / 400)
    + math.floor((153 * (month - 3) + 2) / 5) + day - 719469
end

local function date_of(days)
  local since = days + 719468
  local era = math.floor(since / 146097)
  local of_era = since - era * 146097
  local year = math.floor((of_era - math.floor(of_era / 1460) + math.floor(of_era / 36524)
    - math.floor(of_era / 146096)) / 365)
  local of_year = of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local month = math.floor((5 * of_year + 2) / 153)
  local day = of_year - math.floor((153 * month + 2) / 5) + 1
  month = month + (month < 10 and 3 or -9)
  return year + era * 400 + (month <= 2 and 1 or 0), month, day
end

-- ISO-8601 in UTC with milliseconds. The part down to the second is kept for the next call.
local iso_second, iso_prefix = nil, nil
function clock.iso(ms)
  local second = math.floor(ms / 1000)
  if second ~= iso_second then
    local days = math.floor(second / DAY_SECONDS)
    local of_day = second - days * DAY_SECONDS
    local year, month, day = date_of(days)
    iso_prefix = string.format("%04d-%02d-%02dT%02d:%02d:%02d.", year, month, day,
      math.floor(of_day / 3600), math.floor(of_day / 60) % 60, of_day % 60)
    iso_second = second
  end
  return iso_prefix .. string.format("%03dZ", ms - second * 1000)
end

-- Milliseconds since 1970 of an ISO-8601 time with a zone, or nil.
function clock.parse(text)
  local year, month, day, hour, minute, second, fraction, zone =
    string.match(text, "^(%d%d%d%d)-(%d%d)-(%d%d)[Tt ](%d%d):(%d%d):(%d%d)(%.?%d*)(.*)$")
  if not year or fraction == "." then
    return nil
  end
  year, month, day = tonumber(year), tonumber(month), tonumber(day)
  hour, minute, second = tonumber(hour), tonumber(minute), tonumber(second)
  local days = days_of(year, month, day)
  local real_year, real_month, real_day = date_of(days)
  if real_year ~= year or real_month ~= month or real_day ~= day or hour > 23 or minute > 59 or second > 60 then
    return nil
  end
  local offset = 0
  if zone ~= "Z" and zone ~= "z" then
    local sign, hours, minutes = string.match(zone, "^([+-])(%d%d):?(%d%d)$")
    if not sign then
      return nil
    end
    offset = (tonumber(hours) * 60 + tonumber(minutes)) * (sign == "-" and -60 or 60)
  end
  local seconds = days * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset
  return seconds * 1000 + math.floor((tonumber("0" .. fraction) or 0) * 1000)
end
