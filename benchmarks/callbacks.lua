-- wrk: each request another callback, of 24 sessions at a time, and the result as one line of JSON.
local head = '{"CallbackCommand":"Desk.SessionEventNotify","SessionId":"'
local tail = ',"ChannelType":"SDK","ClientUserId":"your_user_id","CustomerServiceId":"@customer_service_account",'
  .. '"AgentId":"default-agent","MsgKey":"152_1600012345_abcdefg","MsgBody":[{"MsgType":"TIMTextElem",'
  .. '"MsgContent":{"Text":"How to request a refund?"}}],"CloudCustomData":"","IsContactUser":false,"SatisfactionSelected":5}'
local path = "/?SdkAppid=1600012345&CallbackCommand=Desk.SessionEventNotify&contenttype=json&ClientIP=127.0.0.1&OptPlatform=RESTAPI"
local headers = {["Content-Type"] = "application/json"}
local number, prefix = 0, "unset"

function init(arguments)
  prefix = arguments[1]
end

function request()
  number = number + 1
  local session = string.format('%s-%d","Event":"%s","EventTime":%d', prefix, math.floor(number / 240) * 24 + number % 24,
    number % 240 < 24 and "SessionBegin" or "ChatBot.UserSendMsg", 1725540000000 + number)
  return wrk.format("POST", path, headers, head .. session .. tail)
end

function done(summary, latency)
  local errors = summary.errors
  io.write(string.format('{"requests":%d,"seconds":%f,"p50_ms":%f,"p99_ms":%f,"p999_ms":%f,"errors":%d}\n',
    summary.requests, summary.duration / 1e6, latency:percentile(50) / 1e3, latency:percentile(99) / 1e3,
    latency:percentile(99.9) / 1e3, errors.connect + errors.read + errors.write + errors.status + errors.timeout))
end
